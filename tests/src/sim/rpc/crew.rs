//! Two clients, with the client library's own sessions, caches and requests: each has a directory of its own, so
//! that it always knows what must be there, and opens the other's files now and then, which recalls them.
//! Nothing may fail: whatever befalls the connections, each operation is done once, and once it returned it is
//! there. Files stay empty and without chunks: the way of bytes to chunkservers is not part of these worlds.

use super::super::dice::Dice;
use super::Shared;
use super::sockets::SimDial;
use super::trace::Voice;
use gfs_client::{Client, ClientConfig, FileHandle, OpenFlags};
use gfs_proto::FsError;
use gfs_proto::attr::{Mode, SetAttr};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, MakeKind, RenameMode, XattrMode};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Names that a client uses.
const NAMES: u64 = 5;
/// No operation may take so long, whatever happens.
const BOUND: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(200);
const ATTRIBUTE: &[u8] = b"user.number";

/// A file as it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    inode: InodeId,
    mode: Mode,
    /// Value of its extended attribute, if it has one.
    number: Option<u64>,
}

/// One client.
pub(super) struct Worker {
    number: u64,
    client: Arc<Client>,
    shared: Rc<Shared>,
    caller: Caller,
    directory: InodeId,
    known: BTreeMap<u64, Known>,
    open: Vec<FileHandle>,
    next: u64,
}

fn directory_of(number: u64) -> Name {
    Name::new(format!("c{number}").as_bytes()).expect("a good name")
}

fn file_of(number: u64) -> Name {
    Name::new(format!("f{number}").as_bytes()).expect("a good name")
}

/// A session; the master may be away just now.
async fn connect(number: u64) -> Arc<Client> {
    loop {
        let config = ClientConfig {
            master: super::MASTER.to_owned(),
            name: format!("client {number}"),
            timeout: BOUND,
            ..ClientConfig::default()
        };
        if let Ok(client) = Client::connect_over(config, Arc::new(SimDial)).await {
            return client;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Worker {
    /// Works until it is told to stop, then looks with a new session at what there is.
    pub(super) async fn run(number: u64, shared: Rc<Shared>, mut dice: Dice) {
        let client = connect(number).await;
        let mut worker = Self {
            number,
            client,
            shared,
            caller: Caller::root(),
            directory: InodeId::ROOT,
            known: BTreeMap::new(),
            open: Vec::new(),
            next: 1,
        };
        worker.make_directory().await;
        while !worker.shared.stop.get() && worker.shared.is_well() {
            worker.act(&mut dice).await;
            tokio::time::sleep(Duration::from_millis(dice.within(0, 120))).await;
        }
        std::mem::take(&mut worker.open).into_iter().for_each(|handle| worker.client.release(handle));
        let ended = worker.client.shutdown().await;
        worker.must("shutdown", ended);
        worker.client = connect(number).await;
        worker.compare().await;
        worker.shared.finished.set(worker.shared.finished.get() + 1);
    }

    /// What must succeed.
    fn must<T>(&self, what: &str, outcome: Result<T, FsError>) -> Option<T> {
        self.shared.operations.set(self.shared.operations.get() + 1);
        let said = outcome.as_ref().map(|_| ());
        self.shared.trace.note(&format!("client {} {what}: {said:?}", self.number), Voice::Loud);
        outcome.map_err(|error| self.fail(format!("{what} failed: {error}"))).ok()
    }

    fn fail(&self, what: String) {
        self.shared.fail(format!("client {}: {what}", self.number));
    }

    async fn make_directory(&mut self) {
        let name = directory_of(self.number);
        let made = self.client.make(&self.caller, InodeId::ROOT, &name, MakeKind::Directory, Mode::new(0o755)).await;
        if let Some(entry) = self.must("mkdir", made) {
            self.directory = entry.attr.inode;
        }
    }

    async fn act(&mut self, dice: &mut Dice) {
        let name = dice.below(NAMES);
        match (self.known.get(&name).copied(), dice.below(100)) {
            (_, 0..6) => self.peek(dice).await,
            (None, _) => self.create(name).await,
            (Some(_), 6..12) => self.compare().await,
            (Some(file), 12..50) => self.number_it(name, file).await,
            (Some(file), 50..65) => self.change_mode(name, file, dice).await,
            (Some(_), 65..80) => self.rename(name, dice.below(NAMES)).await,
            (Some(_), 80..88) => self.unlink(name).await,
            (Some(file), 88..95) => self.hold(name, file).await,
            (Some(_), _) => self.close(),
        }
    }

    async fn create(&mut self, name: u64) {
        let flags = OpenFlags { exclusive: true, ..OpenFlags::new(Access::Read) };
        let created = self.client.create(&self.caller, self.directory, &file_of(name), (Mode::new(0o644), flags)).await;
        if let Some((entry, opened)) = self.must(&format!("create f{name}"), created) {
            self.known.insert(name, Known { inode: entry.attr.inode, mode: Mode::new(0o644), number: None });
            self.open.push(opened.handle);
        }
    }

    /// Opens it for writing: alone, until the other one looks at it.
    async fn hold(&mut self, name: u64, file: Known) {
        let opened = self.client.open(&self.caller, file.inode, OpenFlags::new(Access::ReadWrite)).await;
        if let Some(opened) = self.must(&format!("open f{name}"), opened) {
            self.open.push(opened.handle);
        }
    }

    fn close(&mut self) {
        self.open.drain(..).for_each(|handle| self.client.release(handle));
    }

    async fn number_it(&mut self, name: u64, file: Known) {
        let number = self.next;
        self.next += 1;
        let value = number.to_string();
        let set =
            self.client.setxattr(&self.caller, file.inode, (ATTRIBUTE, value.as_bytes()), XattrMode::Either).await;
        if self.must(&format!("number f{name} {number}"), set).is_some() {
            self.known.insert(name, Known { number: Some(number), ..file });
        }
    }

    async fn change_mode(&mut self, name: u64, file: Known, dice: &mut Dice) {
        let mode = Mode::new(0o600 | dice.below(0o100) as u32);
        let changes = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let set = self.client.setattr(&self.caller, file.inode, changes, None).await;
        if self.must(&format!("chmod f{name}"), set).is_some() {
            self.known.insert(name, Known { mode, ..file });
        }
    }

    async fn rename(&mut self, from: u64, to: u64) {
        if from == to {
            return;
        }
        let (source, target) = (file_of(from), file_of(to));
        let ends = ((self.directory, &source), (self.directory, &target));
        let renamed = self.client.rename(&self.caller, ends.0, ends.1, RenameMode::Replace).await;
        if self.must(&format!("rename f{from} f{to}"), renamed).is_some()
            && let Some(file) = self.known.remove(&from)
        {
            self.known.insert(to, file);
        }
    }

    async fn unlink(&mut self, name: u64) {
        let removed = self.client.unlink(&self.caller, self.directory, &file_of(name)).await;
        if self.must(&format!("unlink f{name}"), removed).is_some() {
            self.known.remove(&name);
        }
    }

    /// Opens a file of the other's, who may hold it: the master recalls it there.
    async fn peek(&self, dice: &mut Dice) {
        let path = format!("/c{}/f{}", 1 - self.number, dice.below(NAMES));
        let found = self.client.resolve(&self.caller, path.as_bytes()).await;
        self.shared.trace.note(&format!("client {} looks at {path}: {:?}", self.number, found.is_ok()), Voice::Loud);
        let Ok(entry) = found else { return };
        match self.client.open(&self.caller, entry.attr.inode, OpenFlags::new(Access::Read)).await {
            Ok(opened) => self.client.release(opened.handle),
            Err(FsError::NotFound | FsError::Stale) => {} // removed since
            Err(error) => self.fail(format!("{path} does not open: {error}")),
        }
    }

    /// What is there is what was made of it.
    async fn compare(&self) {
        let Some(names) = self.list().await else { return };
        let known: Vec<(Name, InodeId)> = self.known.iter().map(|(name, file)| (file_of(*name), file.inode)).collect();
        if names != known {
            return self.fail(format!("lists {names:?}, and made {known:?}"));
        }
        for (name, file) in &self.known {
            let attr = self.client.getattr(&self.caller, file.inode).await;
            let Some(entry) = self.must(&format!("stat f{name}"), attr) else { return };
            let number = match self.client.getxattr(&self.caller, file.inode, ATTRIBUTE).await {
                Ok(value) => String::from_utf8(value).ok().and_then(|text| text.parse().ok()),
                Err(FsError::NoAttribute) => None,
                Err(error) => return self.fail(format!("f{name} has no readable number: {error}")),
            };
            let found = Known { inode: entry.attr.inode, mode: entry.attr.mode, number };
            if found != *file {
                self.fail(format!("f{name} is {found:?}, and was made {file:?}"));
            }
        }
    }

    async fn list(&self) -> Option<Vec<(Name, InodeId)>> {
        let handle = self.must("opendir", self.client.opendir(&self.caller, self.directory))?;
        let page = self.client.readdir(handle, DirCookie::default(), false).await;
        self.client.releasedir(handle);
        let page = self.must("readdir", page)?;
        let mut found: Vec<(Name, InodeId)> = page.items.into_iter().map(|item| (item.name, item.inode)).collect();
        found.retain(|(name, _)| !matches!(name.as_bytes(), b"." | b".."));
        found.sort();
        Some(found)
    }
}
