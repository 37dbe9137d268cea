//! Lets the simulation's own source of random numbers be found by name: see `src/sim/entropy.rs`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=getrandom");
}
