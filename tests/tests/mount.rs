//! The mount as a program: starting, ending, being started by others.

use anyhow::ensure;
use gfs_tests::{Options, Script, Stream, answers, detach, is_mounted, program, scenario, sh, until};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn sigterm_writes_out_what_is_still_in_memory() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        let bytes = Stream::new(3).bytes(2_000_000);
        let file = File::create(mount.join("open"))?;
        file.write_all_at(&bytes, 0)?; // neither synced nor closed
        cluster.stop_mount(0)?;
        drop(file);
        cluster.start_mount(0)?;
        ensure!(fs::read(mount.join("open"))? == bytes, "what was written is gone");
        Ok(())
    });
}

#[test]
fn umount_ends_the_daemon() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        fs::write(mount.join("f"), "x")?;
        sh(Path::new("/"), &format!("umount {}", mount.display()))?;
        cluster.wait_mount_end(0)?;
        cluster.start_mount(0)?;
        ensure!(fs::read(mount.join("f"))? == b"x");
        Ok(())
    });
}

#[test]
fn a_mount_that_lost_its_daemon_is_replaced() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        fs::write(mount.join("f"), "x")?;
        fs::metadata(&mount)?; // in the kernel's cache now, and a while after the daemon has died
        cluster.kill_mount(0)?;
        ensure!(is_mounted(&mount) && !answers(&mount), "the mount is stale");
        cluster.start_mount(0)?;
        ensure!(fs::read(mount.join("f"))? == b"x");
        Ok(())
    });
}

#[test]
fn in_the_background_it_returns_when_the_mount_works() {
    scenario(Options::default(), |cluster| {
        let (point, log) = (cluster.path("bg"), cluster.path("bg.log"));
        fs::create_dir(&point)?;
        let (shown, log_shown) = (point.display().to_string(), log.display().to_string());
        let fuse = program("gfs-fuse")?;
        let arguments = ["--master", cluster.address(), "--log-file", &log_shown, &shown];
        Script::new(&fuse, &arguments).within(SOON).run()?;
        let used = (|| {
            ensure!(is_mounted(&point), "it returned before the mount worked");
            fs::write(point.join("f"), "x")?;
            ensure!(sh(&point, "stat -f -c %T .")?.contains("fuse"));
            let again = Script::new(&fuse, &arguments).within(SOON).attempt()?;
            again.refused(1, &[&shown])
        })();
        sh(Path::new("/"), &format!("umount {shown}"))?;
        used?;
        until("the daemon has closed its session", SOON, || Ok(cluster.gfsctl_json(&["status"])?["clients"] == 0))?;
        ensure!(fs::metadata(&log)?.len() > 0, "nothing was logged");
        Ok(())
    });
}

#[test]
fn what_cannot_be_mounted_is_refused_with_a_reason() {
    scenario(Options { chunkservers: 0, ..Options::default() }, |cluster| {
        let fuse = program("gfs-fuse")?;
        let point = cluster.path("p");
        fs::create_dir(&point)?;
        fs::write(cluster.path("file"), "")?;
        let shown = |below: &str| cluster.path(below).display().to_string();
        let away = format!("127.0.0.1:{}", gfs_tests::free_port()?);
        let here = cluster.address();
        for (arguments, status, named) in [
            (vec!["--master", &away, &shown("p")], 1, away.as_str()),
            (vec!["--master", here, &shown("none")], 1, "none"),
            (vec!["--master", here, &shown("file")], 1, "file"),
            (vec!["--master", here, "-o", "bogus", &shown("p")], 2, "bogus"),
            (vec!["--master", "nonsense", &shown("p")], 2, "nonsense"),
            (vec![], 2, "MOUNTPOINT"),
        ] {
            let ran = Script::new(&fuse, &arguments).within(SOON).attempt()?;
            ran.refused(status, &[named])?;
            ensure!(!is_mounted(&point), "{arguments:?} has mounted something");
        }
        Ok(())
    });
}

#[test]
fn an_ordinary_user_mounts_through_fusermount() {
    scenario(Options::default(), |cluster| {
        // the user must be able to reach program and mountpoint
        let (bin, point) = (cluster.path("bin"), cluster.path("user"));
        fs::create_dir(&bin)?;
        fs::copy(program("gfs-fuse")?, bin.join("gfs-fuse"))?;
        fs::create_dir(&point)?;
        sh(cluster.directory(), "chown nobody user")?;
        cluster.gfsctl(&["mkdir", "-m", "777", "/home"])?;
        // a device that users may open, as Debian's own has it, for this script alone
        let script = format!(
            "unshare --mount --propagation private bash -euc '
                mknod -m 666 fuse c 10 229; mount --bind fuse /dev/fuse
                user() {{ setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\"; }}
                user bin/gfs-fuse --master {master} $PWD/user
                ! stat user/. 2>/dev/null
                user bash -euc \"cd user; echo mine >home/f; cat home/f; stat -c %U home/f\"
                user fusermount3 -u $PWD/user'",
            master = cluster.address(),
        );
        let said = sh(cluster.directory(), &script)?;
        ensure!(said == "mine\nnobody", "{said}");
        Ok(())
    });
}

#[test]
fn mount_8_finds_the_helper() {
    scenario(Options::default(), |cluster| {
        let (helpers, point) = (cluster.path("sbin"), cluster.path("p"));
        fs::create_dir(&helpers)?;
        fs::create_dir(&point)?;
        fs::set_permissions(&helpers, fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(program("gfs-fuse")?, helpers.join("mount.fuse.gfs"))?;
        // a view of /sbin with the helper in it, for this script alone
        let script = format!(
            "unshare --mount --propagation private bash -euc '
                mount -t overlay overlay -o lowerdir={helpers}:$(realpath /sbin) $(realpath /sbin)
                mount -t fuse.gfs -o rw,noatime,_netdev {master} {point}
                echo x >{point}/f; findmnt -n -o FSTYPE {point}; umount {point}'",
            helpers = helpers.display(),
            master = cluster.address(),
            point = point.display(),
        );
        let ran = sh(cluster.directory(), &script);
        let _ = detach(&point); // it lived in another namespace
        ensure!(ran? == "fuse.gfs");
        ensure!(cluster.gfsctl(&["cat", "/f"])? == "x\n");
        Ok(())
    });
}

#[test]
fn a_read_only_mount_refuses_writes() {
    scenario(Options::default(), |cluster| {
        let writable = cluster.mount()?;
        fs::write(writable.join("f"), "x")?;
        let mount = cluster.mount_with(&["-o", "ro"])?;
        ensure!(fs::read(mount.join("f"))? == b"x");
        let error = fs::write(mount.join("g"), "y").expect_err("read-only");
        ensure!(error.kind() == std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
        Ok(())
    });
}
