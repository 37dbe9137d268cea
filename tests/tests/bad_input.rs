//! What makes no sense is refused by name, and nothing is changed.

use anyhow::{Context, Result, ensure};
use gfs_proto::limits::FILE_SIZE_MAX;
use gfs_tests::{Options, Ran, Script, free_port, program, scenario, sh, until};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn run(name: &str, arguments: &[&str]) -> Result<Ran> {
    Script::new(&program(name)?, arguments).within(SOON).attempt()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

#[test]
fn wrong_flags_and_settings_are_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (data, config) = (directory.path().join("data"), directory.path().join("c.toml"));
    for (name, setting) in [("gfs-master", "gaol = 3"), ("gfs-chunkserver", "rak = \"a\"")] {
        fs::write(&config, format!("{setting}\n"))?;
        run(name, &["--config", text(&config)])?.refused(2, &["c.toml", &setting[..3]])?;
        run(name, &["--config", "/nonexistent/c.toml"])?.refused(2, &["/nonexistent/c.toml"])?;
        run(name, &["--frobnicate"])?.refused(2, &["--frobnicate"])?;
    }
    let data = text(&data);
    for arguments in [
        &["--data", data, "--chunk-size", "65KiB"][..],
        &["--data", data, "--goal", "10"],
        &["--data", data, "--listen", "nonsense"],
        &["--data", data, "--listen", "0.0.0.0:0"],
    ] {
        run("gfs-master", arguments)?.refused(2, &[arguments[2].trim_start_matches('-')])?;
    }
    run("gfs-chunkserver", &["--directory", data, "--master", "nonsense"])?.refused(2, &["nonsense"])?;
    ensure!(!Path::new(data).exists(), "something was made for nothing");
    Ok(())
}

#[test]
fn a_port_in_use_is_named() {
    scenario(Options::default(), |cluster| {
        let (address, other) = (cluster.address().to_owned(), cluster.path("other"));
        run("gfs-master", &["--data", text(&other), "--listen", &address])?.refused(1, &[&address])?;
        let arguments = ["--directory", text(&other), "--listen", &address, "--master", &address];
        run("gfs-chunkserver", &arguments)?.refused(1, &[&address])
    });
}

#[test]
fn a_foreign_directory_is_left_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("thesis.tex"), "years of work")?;
    let path = text(directory.path());
    let master = run("gfs-master", &["--data", path, "--listen", "127.0.0.1:0"])?;
    ensure!(matches!(master.status, 1 | 2) && master.err.contains(path), "{master:?}");
    let chunkserver = run("gfs-chunkserver", &["--directory", path, "--master", "127.0.0.1:1"])?;
    ensure!(matches!(chunkserver.status, 1 | 2) && chunkserver.err.contains(path), "{chunkserver:?}");
    ensure!(sh(directory.path(), "ls -A")? == "thesis.tex", "something was put into it");
    Ok(())
}

#[test]
fn two_servers_never_share_a_directory() {
    scenario(Options::default(), |cluster| {
        let (master, chunks) = (cluster.path("master"), cluster.chunkserver_directory(0));
        let free = format!("127.0.0.1:{}", free_port()?);
        run("gfs-master", &["--data", text(&master), "--listen", &free])?.refused(1, &[text(&master)])?;
        let socket = cluster.path("x.sock");
        let arguments = ["--directory", text(&chunks), "--master", cluster.address(), "--socket", text(&socket)];
        run("gfs-chunkserver", &arguments)?.refused(1, &[text(&chunks)])
    });
}

#[test]
fn another_chunk_size_or_goal_than_the_cluster_has_is_refused() {
    scenario(Options { chunkservers: 0, ..Options::default() }, |cluster| {
        let data = cluster.path("master");
        let free = format!("127.0.0.1:{}", free_port()?);
        cluster.kill_master()?;
        for (flag, value, named) in [("--chunk-size", "1MiB", "chunk size"), ("--goal", "2", "goal")] {
            let ran = run("gfs-master", &["--data", text(&data), "--listen", &free, flag, value])?;
            ensure!(matches!(ran.status, 1 | 2), "{ran:?}");
            ensure!(ran.err.contains(named) && ran.err.contains(text(&data)), "{ran:?}");
        }
        cluster.start_master()
    });
}

#[test]
fn a_directory_of_a_newer_format_is_refused() {
    scenario(Options::default(), |cluster| {
        cluster.stop_chunkserver(0)?;
        let chunks = cluster.chunkserver_directory(0);
        let format = chunks.join("format");
        let was = fs::read(&format).context("the file that names the format")?;
        sh(&chunks, "sed -i '1s/[0-9][0-9]*$/999/' format; head -1 format | grep -q 999")?;
        let socket = cluster.path("x.sock");
        let arguments = ["--directory", text(&chunks), "--master", cluster.address(), "--socket", text(&socket)];
        let ran = run("gfs-chunkserver", &arguments)?;
        ensure!(matches!(ran.status, 1 | 2) && ran.err.contains("999"), "{ran:?}");
        fs::write(&format, was)?;
        cluster.start_chunkserver(0)
    });
}

#[test]
fn names_sizes_and_offsets_beyond_the_limits() {
    scenario(Options::default(), |cluster| {
        const ENAMETOOLONG: i32 = 36;
        const EFBIG: i32 = 27;
        let mount = cluster.mount()?;
        let errno = |error: &std::io::Error| error.raw_os_error();
        let long = "x".repeat(256);
        for outcome in [
            File::create(mount.join(&long)).map(drop),
            fs::create_dir(mount.join(&long)),
            fs::metadata(mount.join(&long)).map(drop),
            std::os::unix::fs::symlink("target", mount.join(&long)),
        ] {
            let error = outcome.expect_err("a name of 256 bytes");
            ensure!(errno(&error) == Some(ENAMETOOLONG), "{error}");
        }
        File::create(mount.join("y".repeat(255)))?;

        let file = File::create(mount.join("f"))?;
        let error = file.set_len(FILE_SIZE_MAX + 1).expect_err("beyond the largest size");
        ensure!(errno(&error) == Some(EFBIG), "{error}");
        let error = file.write_all_at(b"ab", FILE_SIZE_MAX - 1).and_then(|()| file.sync_all());
        ensure!(error.as_ref().is_err_and(|it| errno(it) == Some(EFBIG)), "{error:?}");
        file.set_len(FILE_SIZE_MAX)?;
        file.write_all_at(b"z", FILE_SIZE_MAX - 1)?;
        file.sync_all()?;
        let mut last = [0; 2];
        ensure!(File::open(mount.join("f"))?.read_at(&mut last, FILE_SIZE_MAX - 2)? == 2 && last == *b"\0z");
        let name = format!("/{long}");
        cluster.gfsctl_attempt(&["mkdir", &name])?.refused(1, &["too long"])
    });
}

#[test]
fn noise_on_the_ports_harms_nobody() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        fs::write(mount.join("before"), "x")?;
        let servers = cluster.gfsctl_json(&["chunkservers"])?;
        let data = servers["chunkservers"][0]["address"].as_str().context("an address")?.to_owned();
        // prefix = magic, kind, version, header_len, sums_len, payload_len, request, crc
        let mut absurd = b"GFSd".to_vec();
        absurd.extend([5, 1]);
        absurd.extend([0xff; 22]);
        let mut right_sum = b"GFSd".to_vec();
        right_sum.extend([5, 1, 0xff, 0xff]);
        right_sum.extend(u32::MAX.to_le_bytes());
        right_sum.extend(u32::MAX.to_le_bytes());
        right_sum.extend(7u64.to_le_bytes());
        right_sum.extend([0; 4]);
        for noise in [absurd, right_sum, b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 4096], vec![]] {
            for address in [data.as_str(), cluster.address()] {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(SOON))?;
                // it may hang up before it has taken everything
                let _ = stream.write_all(&noise).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
                let mut answer = Vec::new();
                match stream.read_to_end(&mut answer) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                    Err(error) => return Err(error).context(format!("{address} did not hang up on {noise:?}")),
                }
            }
        }
        fs::write(mount.join("after"), vec![1; 1_000_000])?;
        ensure!(fs::read(mount.join("before"))? == b"x" && fs::read(mount.join("after"))?.len() == 1_000_000);
        until("all chunkservers are up", SOON, || Ok(cluster.gfsctl_json(&["status"])?["chunkservers"]["up"] == 3))
    });
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    scenario(Options { chunkservers: 1, ..Options::default() }, |cluster| {
        let chunks = cluster.chunkserver_directory(0);
        let (data, log) = (cluster.path("other"), cluster.path("other.log"));
        let address = format!("127.0.0.1:{}", free_port()?);
        let arguments = ["--data", text(&data), "--listen", &address, "--goal", "1"].map(str::to_owned);
        let mut other = gfs_tests::Daemon::new("other", program("gfs-master")?, arguments.to_vec(), log);
        other.start()?;
        other.wait_ready("answers", SOON, || Ok(run("gfsctl", &["--master", &address, "status"])?.status == 0))?;
        cluster.stop_chunkserver(0)?;
        let socket = cluster.path("x.sock");
        let foreign = ["--directory", text(&chunks), "--master", &address, "--socket", text(&socket)];
        let ran = run("gfs-chunkserver", &foreign)?;
        ensure!(ran.status == 1 && ran.err.contains("cluster") && ran.err.contains("--master"), "{ran:?}");
        other.stop()?;
        cluster.start_chunkserver(0)
    });
}
