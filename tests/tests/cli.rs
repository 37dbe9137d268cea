//! `gfsctl` on real clusters: files in and out, reports, local clusters up and down.

use anyhow::{Context, Result, ensure};
use gfs_tests::{
    Cluster, Options, Script, Stream, detach, environment_is_fit, is_mounted, program, scenario, sh, until,
};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

#[test]
fn files_go_in_and_come_out_as_they_were() {
    scenario(Options::default(), |cluster| {
        let (local, back) = (cluster.path("local"), cluster.path("back"));
        for length in [0, 1, 4096, 262_144, 262_145, 3_000_000] {
            let bytes = Stream::new(length as u64).bytes(length);
            fs::write(&local, &bytes)?;
            cluster.gfsctl(&["put", text(&local), "/file"])?;
            cluster.gfsctl(&["get", "/file", text(&back)])?;
            ensure!(fs::read(&back)? == bytes, "{length} bytes came back otherwise");
            let stat = cluster.gfsctl_json(&["stat", "/file"])?;
            let chunks = length.div_ceil(256 << 10);
            ensure!(stat["inodes"][0]["size"] == length, "{stat}");
            // a file of one chunk is made with it, empty or not
            let shown = stat["inodes"][0]["chunks"].as_array().context("chunks")?;
            ensure!(shown.len() == chunks || (length == 0 && shown.len() <= 1), "{length} bytes: {stat}");
            ensure!(shown.iter().all(|it| it["replicas"].as_array().is_some_and(|all| all.len() == 3)), "{stat}");
        }
        Ok(())
    });
}

#[test]
fn trees_go_in_and_come_out_as_they_were() {
    scenario(Options::default(), |cluster| {
        let tree = cluster.path("tree");
        sh(
            cluster.directory(),
            "mkdir -p tree/a/b tree/empty; cp -a /usr/share/perl/5.*.*/unicore tree/; ln -s a/b tree/link; \
             echo x >tree/a/b/f; chmod 600 tree/a/b/f; echo y >'tree/a b'",
        )?;
        let put = cluster.gfsctl_json(&["put", "-r", text(&tree), "/"])?;
        ensure!(put["files"].as_u64() > Some(50) && put["links"] == 1, "{put}");
        cluster.gfsctl(&["get", "-r", "/tree", text(&cluster.path("back"))])?;
        sh(cluster.directory(), "diff -r --no-dereference tree back; test $(stat -c %a back/a/b/f) = 600")?;
        let mount = cluster.mount()?;
        sh(cluster.directory(), &format!("diff -r --no-dereference tree {}/tree", mount.display()))?;
        cluster.gfsctl(&["put", "-r", text(&tree), "/"])?; // once more, over itself
        let removed = cluster.gfsctl_json(&["rm", "-r", "/tree"])?;
        ensure!(removed["files"].as_u64() > Some(50), "{removed}");
        ensure!(cluster.gfsctl(&["ls"])?.is_empty());
        Ok(())
    });
}

#[test]
fn names_are_made_moved_and_removed() {
    scenario(Options::default(), |cluster| {
        let run = |line: &str| cluster.gfsctl(&line.split(' ').collect::<Vec<_>>());
        let local = cluster.path("f");
        fs::write(&local, "hello\n")?;
        run("mkdir /d")?;
        run("mkdir -p /d/e/f")?;
        run(&format!("put {} /d/g", local.display()))?;
        ensure!(run("cat /d/g /d/g")? == "hello\nhello\n");
        run("mv /d/g /d/e")?;
        ensure!(run("ls /d/e")? == "f\ng\n");
        run("mv /d/e/g /top")?;
        ensure!(run("ls")? == "d\ntop\n");
        let listed = cluster.gfsctl_json(&["ls", "/"])?;
        ensure!(listed["entries"][1]["name"] == "top" && listed["entries"][1]["size"] == 6, "{listed}");
        ensure!(run("ls -l /top")?.contains("-rw-"), "{}", run("ls -l /top")?);
        for (line, status, named) in [
            ("mkdir /d", 1, "/d"),
            ("rm /d", 2, "--recursive"),
            ("rm /none", 1, "/none"),
            ("rm /", 2, "root"),
            ("cat /d", 1, "directory"),
            ("get /d .", 2, "--recursive"),
            ("mv -n /top /d/e/../e/f", 0, ""),
            ("stat /none", 1, "no such file"),
        ] {
            let ran = cluster.gfsctl_attempt(&line.split(' ').collect::<Vec<_>>())?;
            if status != 0 {
                ran.refused(status, &[named]).with_context(|| line.to_owned())?;
            }
        }
        run("rm -f /none")?;
        run("rm -r /d")?;
        Ok(())
    });
}

#[test]
fn standard_streams_are_files_too() {
    scenario(Options::default(), |cluster| {
        let gfsctl = program("gfsctl")?;
        let script = format!(
            "export GFS_MASTER={}; g={}; seq 200000 | $g put - /numbers; $g get /numbers - | cmp - <(seq 200000); \
             $g cat /numbers | head -1; test \"$($g --json cat /numbers | tail -1)\" = 200000",
            cluster.address(),
            gfsctl.display()
        );
        ensure!(sh(cluster.directory(), &script)? == "1");
        Ok(())
    });
}

#[test]
fn a_file_that_is_put_over_another_replaces_it_when_it_is_whole() {
    scenario(Options::default(), |cluster| {
        let local = cluster.path("f");
        fs::write(&local, "old\n")?;
        cluster.gfsctl(&["put", text(&local), "/f"])?;
        cluster.gfsctl(&["set-goal", "2", "/f"])?;
        let gfsctl = program("gfsctl")?;
        let script = format!(
            "export GFS_MASTER={}; g={}; mkfifo pipe; $g put - /f <pipe & put=$!; exec 3>pipe; \
             head -c 3000000 /dev/zero >&3; until $g ls / | grep -q gfsctl-; do :; done; $g cat /f; \
             kill -INT $put; status=0; wait $put || status=$?; echo $status; $g cat /f; $g ls /",
            cluster.address(),
            gfsctl.display()
        );
        let ran = Script::shell(cluster.directory(), &script).within(Duration::from_secs(60)).run()?;
        ensure!(ran.out == "old\n130\nold\nf\n", "{}{}", ran.out, ran.err);
        fs::write(&local, "new\n")?;
        cluster.gfsctl(&["put", text(&local), "/f"])?;
        ensure!(cluster.gfsctl(&["cat", "/f"])? == "new\n" && cluster.gfsctl(&["ls"])? == "f\n");
        ensure!(cluster.gfsctl_json(&["stat", "/f"])?["inodes"][0]["goal"] == 2, "the goal of a file is its own");
        Ok(())
    });
}

#[test]
fn the_goal_is_inherited() {
    scenario(Options::default(), |cluster| {
        let local = cluster.path("f");
        fs::write(&local, vec![1; 300_000])?;
        cluster.gfsctl(&["mkdir", "/two"])?;
        cluster.gfsctl(&["set-goal", "2", "/two"])?;
        cluster.gfsctl(&["put", text(&local), "/two/f"])?;
        let stat = cluster.gfsctl_json(&["stat", "/two/f"])?;
        ensure!(stat["inodes"][0]["goal"] == 2, "{stat}");
        let chunks = stat["inodes"][0]["chunks"].as_array().context("chunks")?;
        ensure!(chunks.len() == 2, "{stat}");
        ensure!(chunks.iter().all(|it| it["replicas"].as_array().is_some_and(|all| all.len() == 2)), "{stat}");
        let changed = cluster.gfsctl_json(&["set-goal", "-r", "1", "/two"])?;
        ensure!(changed["changed"] == 2, "{changed}");
        Ok(())
    });
}

#[test]
fn reports_show_what_there_is() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        fs::write(mount.join("f"), vec![1; 600_000])?;
        let status = cluster.gfsctl_json(&["status"])?;
        ensure!(status["chunk_size"] == 256 << 10 && status["goal_default"] == 3, "{status}");
        ensure!(status["chunkservers"]["up"] == 3 && status["clients"] == 1, "{status}");
        ensure!(status["namespace"]["files"] == 1 && status["chunks"]["total"] == 3, "{status}");
        ensure!(status["masters"][0]["role"] == "leader", "{status}");
        let servers = cluster.gfsctl_json(&["chunkservers"])?;
        let servers = servers["chunkservers"].as_array().context("chunkservers")?;
        ensure!(servers.len() == 3 && servers.iter().all(|it| it["state"] == "up"), "{servers:?}");
        let clients = cluster.gfsctl_json(&["clients"])?;
        ensure!(clients["clients"][0]["name"].as_str().is_some_and(|it| it.contains(text(&mount))), "{clients}");

        let open = fs::File::create(mount.join("written"))?;
        std::os::unix::fs::FileExt::write_all_at(&open, &[1; 1000], 0)?;
        open.sync_all()?;
        let leases = cluster.gfsctl_json(&["leases"])?;
        let leases = leases["leases"].as_array().context("leases")?;
        let lease = leases.iter().find(|it| it["path"] == "/written").context("no lease for the file")?;
        let left = lease["seconds_left"].as_u64().context("seconds")?;
        ensure!(lease["version"] == 1 && left > 0 && left <= 60, "{lease}");
        for command in ["status", "chunkservers", "leases", "clients"] {
            ensure!(!cluster.gfsctl(&[command])?.is_empty(), "{command} says nothing");
        }

        cluster.kill_chunkserver(2)?;
        until("the dead chunkserver is no longer up", Duration::from_secs(30), || {
            let status = cluster.gfsctl_json(&["status"])?;
            Ok(status["chunkservers"]["up"] == 2 && status["chunks"]["degraded"].as_u64() > Some(0))
        })
    });
}

/// A local cluster, taken down when the test ends, however it ends.
struct Local {
    directory: tempfile::TempDir,
}

impl Local {
    fn new() -> Result<Self> {
        environment_is_fit()?;
        Ok(Self { directory: tempfile::Builder::new().prefix("gfs-").tempdir_in("/tmp")? })
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    fn mount(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn script(&self, line: &str) -> Result<Script> {
        let (home, mount) = (self.home(), self.mount());
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| match word {
                "DIR" => text(&home),
                "MNT" => text(&mount),
                other => other,
            })
            .collect();
        Ok(Script::new(&program("gfsctl")?, &[&["--json", "local"], words.as_slice()].concat()))
    }

    fn run(&self, line: &str) -> Result<Value> {
        let ran = self.script(line)?.attempt()?;
        let logs = || sh(&self.home(), "tail -n 30 logs/*.log").unwrap_or_default();
        ensure!(ran.status == 0, "{line}: status {}: {}{}\n{}", ran.status, ran.out, ran.err, logs());
        Ok(serde_json::from_str(&ran.out)?)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Ok(script) = self.script("down DIR --timeout 10") {
            let _ = script.attempt(); // it may be down already
        }
        let _ = detach(&self.mount()); // likewise
    }
}

fn pids(state: &Value) -> Vec<i64> {
    state["processes"].as_array().into_iter().flatten().filter_map(|it| it["pid"].as_i64()).collect()
}

#[test]
fn a_local_cluster_comes_back_with_its_data() -> Result<()> {
    let local = Local::new()?;
    let up = local.run("up DIR --mount MNT --chunk-size 1MiB")?;
    ensure!(up["running"] == true && up["mounted"] == true && pids(&up).len() == 5, "{up}");
    sh(&local.mount(), "cp -a /usr/share/perl/5.*.*/unicore .; echo kept >f")?;

    let again = local.run("up DIR")?;
    ensure!(again["started"] == serde_json::json!([]) && pids(&again) == pids(&up), "{again}");
    let down = local.run("down DIR")?;
    ensure!(down["running"] == false && down["killed"] == serde_json::json!([]), "{down}");
    ensure!(!is_mounted(&local.mount()) && pids(&down).is_empty(), "{down}");
    ensure!(local.script("status DIR")?.attempt()?.status == 1, "what is down has status 1");
    local.run("down DIR")?; // once more does no harm

    let back = local.run("up DIR")?;
    ensure!(back["mounted"] == true && back["master"] == up["master"], "{back}");
    sh(&local.mount(), "diff -r /usr/share/perl/5.*.*/unicore unicore; test $(cat f) = kept")?;
    let restarted = local.run("restart DIR")?;
    ensure!(restarted["running"] == true && pids(&restarted) != pids(&back), "{restarted}");
    sh(&local.mount(), "test $(cat f) = kept")?;
    local.run("down DIR")?;
    Ok(())
}

#[test]
fn up_completes_what_runs_in_part() -> Result<()> {
    let local = Local::new()?;
    let up = local.run("up DIR --chunkservers 2 --goal 2")?;
    let victim = up["processes"][1]["pid"].as_i64().context("a chunkserver")?;
    sh(Path::new("/"), &format!("kill -9 {victim}"))?;
    until(
        "the killed one is gone",
        Duration::from_secs(10),
        || Ok(local.script("status DIR")?.attempt()?.status == 1),
    )?;
    let again = local.run("up DIR --chunkservers 3")?;
    ensure!(again["started"] == serde_json::json!(["chunkserver-1", "chunkserver-3"]), "{again}");
    ensure!(pids(&again).len() == 4, "{again}");
    Ok(())
}

#[test]
fn local_says_what_is_wrong() -> Result<()> {
    let local = Local::new()?;
    local.script("down DIR")?.attempt()?.refused(2, &["no local cluster", "gfsctl local up"])?;
    local.script("up DIR --chunk-size 65M")?.attempt()?.refused(2, &["chunk-size", "power of two"])?;
    ensure!(!local.home().exists(), "a mistake leaves nothing behind");
    local.script("up DIR --chunkservers 0")?.attempt()?.refused(2, &["chunkservers"])?;
    fs::write(local.directory.path().join("file"), "")?;
    let file = local.directory.path().join("file");
    local.script(&format!("up {}", file.display()))?.attempt()?.refused(2, &["not a directory"])?;
    let foreign = local.directory.path().display().to_string();
    local.script(&format!("up {foreign}"))?.attempt()?.refused(2, &["not empty", &foreign])
}

#[test]
fn a_place_that_is_taken_and_a_port_that_is_used_are_refused() -> Result<()> {
    let (local, other) = (Local::new()?, Local::new()?);
    let up = local.run("up DIR --mount MNT --chunkservers 1 --goal 1")?;
    sh(&local.mount(), "echo kept >f")?;
    let (home, mount) = (text(&other.home()).to_owned(), text(&local.mount()).to_owned());
    let master = up["master"].as_str().context("master")?.to_owned();
    let taken = format!("up {home} --chunkservers 1 --goal 1 --mount {mount}");
    other.script(&taken)?.attempt()?.refused(1, &[&mount, "mounted on it already", &master])?;
    other.run("up DIR --chunkservers 1 --goal 1")?;
    other.script(&taken)?.attempt()?.refused(1, &[&mount, &master])?;
    // as a former version wrote it down
    let plan = sh(
        &other.home(),
        &format!("sed -i 's|\"mount\": null|\"mount\": \"{mount}\"|' cluster.json; cat cluster.json"),
    )?;
    ensure!(plan.contains(&mount), "{plan}");
    other.run("down DIR")?;
    sh(&local.mount(), "test $(cat f) = kept").context("the mount of the other is left alone")?;

    let port = gfs_tests::free_port()?;
    local.script(&format!("up DIR --port {port}"))?.attempt()?.refused(2, &[&master, "stop it first"])?;
    ensure!(local.run("status DIR")?["master"] == up["master"], "nothing was written down");
    local.run("down DIR")?;
    let moved = local.run(&format!("up DIR --port {port}"))?;
    ensure!(moved["master"] == format!("127.0.0.1:{port}"), "{moved}");
    sh(&local.mount(), "test $(cat f) = kept")?;

    // what a killed mount process leaves is taken away
    let pid = moved["processes"].as_array().and_then(|all| all.last()?["pid"].as_i64()).context("mount")?;
    sh(Path::new("/"), &format!("kill -9 {pid}"))?;
    until(
        "the killed one is gone",
        Duration::from_secs(10),
        || Ok(local.script("status DIR")?.attempt()?.status == 1),
    )?;
    local.run("down DIR")?;
    ensure!(!is_mounted(&local.mount()));
    Ok(())
}

#[test]
fn a_cluster_that_is_away_is_reported_within_seconds() -> Result<()> {
    let port = gfs_tests::free_port()?;
    let address = format!("127.0.0.1:{port}");
    for command in [&["status"][..], &["ls"], &["put", "/etc/hostname", "/x"]] {
        let script = Script::new(&program("gfsctl")?, command).env("GFS_MASTER", &address);
        script.within(Duration::from_secs(10)).attempt()?.refused(1, &[&address, "is gfs-master running"])?;
    }
    Ok(())
}

#[test]
fn mistakes_on_the_command_line_are_explained() -> Result<()> {
    let stat = Script::new(&program("gfsctl")?, &["stat"]).env("GFS_MASTER", "127.0.0.1:1").attempt()?;
    stat.refused(2, &["Usage: gfsctl stat", "PATH"])?;
    ensure!(!stat.err.contains("--master"), "it has a default: {}", stat.err);
    let directory = tempfile::tempdir()?;
    let mountpoint = text(directory.path());
    let fuse = Script::new(&program("gfs-fuse")?, &["--log", "bogus=foo=x", mountpoint]).attempt()?;
    fuse.refused(2, &["--log", "bogus=foo=x"])
}

#[test]
fn completions_and_manual_pages_are_made() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let pages = directory.path().join("man");
    Script::new(&program("gfsctl")?, &["man", text(&pages)]).run()?;
    ensure!(fs::read_to_string(pages.join("gfsctl-stat.1"))?.contains(".TH"), "no manual page");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(Script::new(&program("gfsctl")?, &["completions", shell]).run()?.out.contains("set-goal"), "{shell}");
    }
    Ok(())
}

#[test]
fn a_stopped_master_keeps_nobody_waiting() {
    scenario(Options::default(), |cluster: &mut Cluster| {
        cluster.pause_master()?;
        let ran = cluster.gfsctl_attempt(&["status"]);
        cluster.resume_master()?;
        ran?.refused(1, &["no answer within"])
    });
}
