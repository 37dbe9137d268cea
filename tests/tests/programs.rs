//! Programs that ask much of a file system, run inside the mount.

use anyhow::ensure;
use gfs_tests::{Options, Script, scenario, sh};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

#[test]
fn git_clones_commits_and_finds_nothing_wrong() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        let origin = cluster.path("origin");
        fs::create_dir(&origin)?;
        let identity = "git config user.name t; git config user.email t@example.org";
        sh(
            &origin,
            &format!(
                "git init -q -b main .; {identity}; cp -a /usr/share/perl/5.*.*/. .; git add -A; git commit -qm first; \
                 for n in 1 2 3 4 5; do echo $n >n; git add n; git commit -qm \"number $n\"; done"
            ),
        )?;
        let shown = origin.display();
        sh(
            &mount,
            &format!(
                "git clone -q --no-local file://{shown} clone; cd clone; git fsck --full --strict; \
                 test -z \"$(git status --porcelain)\"; {identity}; \
                 git checkout -qb other; git mv n m; echo change >>m; git commit -qam change; git gc -q; \
                 git fsck --full; git checkout -q main; test \"$(cat n)\" = 5; git diff --quiet; \
                 git worktree add -q ../tree other; test \"$(wc -l <../tree/m)\" = 2"
            ),
        )?;
        cluster.restart_all()?;
        let after = "cd clone; git fsck --full; test -z \"$(git status --porcelain)\"; git log --oneline other | wc -l";
        let count = sh(&mount, after)?;
        ensure!(count == "7", "{count} commits");
        Ok(())
    });
}

/// A thousand transactions of their own, as a program would make them.
fn transactions(journal: &str) -> String {
    let mut script = format!(
        "PRAGMA journal_mode={journal};\nPRAGMA synchronous=FULL;\n\
         CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT);\nCREATE INDEX i ON t(text);\n"
    );
    for n in 0..1000 {
        let _ = writeln!(script, "BEGIN; INSERT INTO t(text) VALUES('row {n}'); COMMIT;"); // a String takes everything
    }
    script
}

#[test]
fn sqlite_keeps_a_thousand_transactions() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        for journal in ["delete", "wal"] {
            let script = cluster.path("transactions.sql");
            fs::write(&script, transactions(journal))?;
            sh(&mount, &format!("sqlite3 -bail {journal}.db <{}", script.display()))?;
        }
        let check = "PRAGMA integrity_check; SELECT count(*), max(text) FROM t;";
        for journal in ["delete", "wal"] {
            let found = sh(&mount, &format!("sqlite3 {journal}.db '{check}'"))?;
            ensure!(found == "ok\n1000|row 999", "{journal}: {found}");
        }
        cluster.restart_all()?;
        for journal in ["delete", "wal"] {
            let found = sh(&mount, &format!("sqlite3 {journal}.db '{check}'"))?;
            ensure!(found == "ok\n1000|row 999", "{journal} after the restart: {found}");
        }
        Ok(())
    });
}

#[test]
fn cargo_builds_and_the_result_runs() {
    scenario(Options { chunk_size: "1MiB", ..Options::default() }, |cluster| {
        let mount = cluster.mount()?;
        let script = "
            cargo new -q --vcs none hello; cd hello
            echo 'pub fn two() -> i32 { 2 }' >src/lib.rs
            echo 'fn main() { println!(\"{}\", hello::two() + 40); }' >src/main.rs
            cargo build -q --offline; target/debug/hello; cargo test -q --offline >/dev/null
            touch src/main.rs; cargo build -q --offline; target/debug/hello";
        let ran = Script::shell(&mount, script).within(Duration::from_secs(240)).run()?;
        ensure!(ran.out == "42\n42\n", "{}", ran.out);
        Ok(())
    });
}
