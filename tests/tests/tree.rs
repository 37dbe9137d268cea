//! Real trees of files through the mount, with the tools that people use on them.

use anyhow::{Result, ensure};
use gfs_tests::{Options, scenario, sh, until};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A tree with files of all sizes and symbolic links that every Debian with git has; another one can
/// be named to look further.
fn source() -> PathBuf {
    std::env::var_os("GFS_TEST_TREE").map_or_else(|| "/usr/share/perl".into(), PathBuf::from)
}

/// What `stat` shows of everything in a tree, but the sizes of directories, which differ by file system.
fn attributes(tree: &Path) -> Result<String> {
    sh(
        tree,
        r"find . -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %s %T@ %n %l\n' | LC_ALL=C sort",
    )
}

fn assert_equal(source: &Path, copy: &Path) -> Result<()> {
    sh(Path::new("/"), &format!("diff -r --no-dereference {} {}", source.display(), copy.display()))?;
    let (wanted, found) = (attributes(source)?, attributes(copy)?);
    let differing: Vec<_> = wanted.lines().zip(found.lines()).filter(|(a, b)| a != b).take(5).collect();
    ensure!(wanted == found, "attributes differ: {differing:#?}");
    Ok(())
}

#[test]
fn a_copied_tree_is_equal_also_after_all_daemons_were_restarted() {
    scenario(Options::default(), |cluster| {
        let (source, mount) = (source(), cluster.mount()?);
        sh(&mount, &format!("cp -a {} tree", source.display()))?;
        assert_equal(&source, &mount.join("tree"))?;
        cluster.restart_all()?;
        assert_equal(&source, &mount.join("tree"))
    });
}

#[test]
fn a_second_mount_sees_the_same_tree() {
    scenario(Options::default(), |cluster| {
        let (source, first) = (source(), cluster.mount()?);
        sh(&first, &format!("cp -a {} tree", source.display()))?;
        let second = cluster.mount()?;
        assert_equal(&source, &second.join("tree"))?;
        sh(&second, "rm -r tree")?;
        ensure!(fs::read_dir(&second)?.next().is_none());
        Ok(())
    });
}

#[test]
fn a_file_is_seen_to_grow_while_it_is_open_elsewhere() {
    scenario(Options::default(), |cluster| {
        let (first, second) = (cluster.mount()?, cluster.mount()?);
        let mut file = fs::File::create(first.join("growing"))?;
        for length in [1000, 1_000_000] {
            file.write_all(&vec![7; length])?;
            let written = file.metadata()?.len();
            let grown = || Ok(fs::metadata(second.join("growing"))?.len() == written);
            until("the other mount sees the size", Duration::from_secs(10), grown)?;
        }
        Ok(())
    });
}

#[test]
fn tar_and_rsync_and_back() {
    scenario(Options::default(), |cluster| {
        let (source, mount) = (source(), cluster.mount()?);
        let source_text = source.display();
        sh(&mount, &format!("tar -C {source_text} -cf tree.tar . && mkdir tar && tar -xpf tree.tar -C tar"))?;
        assert_equal(&source, &mount.join("tar"))?;
        sh(&mount, "tar -df tree.tar -C tar")?;
        sh(&mount, &format!("rsync -a --checksum {source_text}/ rsync"))?;
        assert_equal(&source, &mount.join("rsync"))?;
        let again = sh(&mount, &format!("rsync -a --checksum --itemize-changes {source_text}/ rsync"))?;
        ensure!(again.is_empty(), "a second rsync found something to do: {again}");
        let out = cluster.path("out");
        sh(&mount, &format!("rsync -a rsync/ {}", out.display()))?;
        assert_equal(&source, &out)
    });
}

#[test]
fn grep_and_find_give_the_same_answers() {
    scenario(Options::default(), |cluster| {
        let (source, mount) = (source(), cluster.mount()?);
        sh(&mount, &format!("cp -a {} tree", source.display()))?;
        for script in [
            "grep -rc package . | LC_ALL=C sort | sha256sum",
            "find . -type f -size +20k | LC_ALL=C sort | sha256sum",
            "find . -name '*.p[ml]' -newermt 2001-01-01 | wc -l",
            "LC_ALL=C ls -AR1F | sha256sum",
        ] {
            let (wanted, found) = (sh(&source, script)?, sh(&mount.join("tree"), script)?);
            ensure!(wanted == found, "{script}: {wanted} on the source, {found} on the copy");
        }
        Ok(())
    });
}

#[test]
fn names_links_and_modes() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        sh(
            &mount,
            r#"
            mkdir -p a/b c; echo one >a/b/f; mv a/b c/; test -f c/b/f; test ! -e a/b
            ln c/b/f hard; test "$(stat -c %h hard)" = 2; ln -s c/b/f soft; test "$(cat soft)" = one
            echo two >>hard; test "$(cat c/b/f)" = "$(printf 'one\ntwo')"
            rm c/b/f; test "$(stat -c %h hard)" = 1; ! cat soft 2>/dev/null
            mv -T --exchange a c 2>/dev/null || mv hard c/b/f
            chmod 4711 c/b/f 2>/dev/null || chmod 4711 hard
            mkdir -m 1777 sticky; test "$(stat -c %a sticky)" = 1777
            mkfifo pipe; test -p pipe; mknod null c 1 3; test "$(stat -c %t:%T null)" = 1:3
            touch -d '1999-12-31 23:59:59.123456789Z' old
            test "$(TZ=UTC stat -c %y old)" = '1999-12-31 23:59:59.123456789 +0000'
            chown 1234:5678 old; test "$(stat -c %u:%g old)" = 1234:5678
            ! rmdir c 2>/dev/null; ! mkdir c 2>/dev/null
            "#,
        )?;
        sh(
            &mount,
            r#"
            touch x; setfattr -n user.colour -v blue x; test "$(getfattr --only-values -n user.colour x)" = blue
            setfattr -x user.colour x; ! getfattr -n user.colour x 2>/dev/null
            name=$(printf 'ä%.0s' $(seq 127)); echo long >"$name"; test "$(cat "$name")" = long
            printf 'odd' >"$(printf 'new\nline')"; test "$(cat "$(printf 'new\nline')")" = odd
            "#,
        )?;
        Ok(())
    });
}

#[test]
fn truncated_and_sparse_files() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        sh(
            &mount,
            r#"
            head -c 1000000 /dev/urandom >/tmp/gfs-ref.$$ ; trap 'rm -f /tmp/gfs-ref.$$' EXIT
            cp /tmp/gfs-ref.$$ f
            for size in 999999 700001 262144 262143 1 0 5 300000; do
                truncate -s $size f /tmp/gfs-ref.$$; cmp f /tmp/gfs-ref.$$
            done
            echo tail >>f; echo tail >>/tmp/gfs-ref.$$; cmp f /tmp/gfs-ref.$$
            "#,
        )?;
        sh(
            &mount,
            r#"
            truncate -s 10G sparse; test "$(stat -c %s sparse)" = 10737418240
            test "$(du -k sparse | cut -f1)" -lt 1024
            echo end | dd of=sparse bs=1 seek=10737418000 conv=notrunc status=none
            echo mid | dd of=sparse bs=1 seek=5000000000 conv=notrunc status=none
            test "$(dd if=sparse bs=1 skip=10737418000 count=3 status=none)" = end
            test "$(dd if=sparse bs=1 skip=5000000000 count=3 status=none)" = mid
            test "$(dd if=sparse bs=1M skip=100 count=4 status=none | tr -d '\0' | wc -c)" = 0
            test "$(du -k sparse | cut -f1)" -lt 4096
            "#,
        )?;
        cluster.restart_all()?;
        sh(&mount, r#"test "$(dd if=sparse bs=1 skip=5000000000 count=3 status=none)" = mid; rm sparse f"#)?;
        Ok(())
    });
}

#[test]
fn a_file_that_is_open_outlives_its_name() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        sh(
            &mount,
            r#"
            exec 3<>f; echo hello >&3; rm f; test ! -e f
            echo more >&3; test "$(cat /proc/self/fd/3)" = "$(printf 'hello\nmore')"
            exec 3>&-
            "#,
        )?;
        Ok(())
    });
}

#[test]
fn a_directory_of_many_files() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        sh(
            &mount,
            r#"
            mkdir d; cd d; seq -f 'file-%05g' 3000 | xargs touch
            test "$(ls | wc -l)" = 3000; test "$(ls -l | grep -c ^-)" = 3000
            ls -U | sort | diff - <(seq -f 'file-%05g' 3000)
            find . -name '*7' -delete; test "$(ls | wc -l)" = 2700
            cd ..; rm -r d; test ! -e d
            "#,
        )?;
        Ok(())
    });
}
