//! Generates the gRPC code from `proto/gfs/v1`, with `protox` so that no `protoc` is installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["session", "chunkserver", "admin", "log", "data"].map(|name| format!("proto/gfs/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure().bytes(".gfs.v1").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
