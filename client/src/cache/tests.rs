//! Tests of the cache: order of replies, lifetimes, completeness, bounds.

use super::*;
use gfs_proto::attr::{FileKind, Mode};
use gfs_proto::ids::{DirCookie, MapGeneration, TruncateGeneration};

const TTL: Duration = Duration::from_secs(1);

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn attr(inode: u64, size: u64) -> Attr {
    Attr {
        inode: InodeId::new(inode),
        kind: FileKind::File,
        mode: Mode::new(0o644),
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        chunks: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        goal: 3,
        has_xattrs: false,
        has_acl: false,
        truncate_generation: TruncateGeneration::default(),
        map_generation: MapGeneration::default(),
    }
}

fn seen(index: u64, from: Instant) -> Seen {
    Seen { index: LogIndex::new(index), expires: from + TTL }
}

fn entry(text: &str, inode: u64) -> DirEntry {
    DirEntry {
        name: name(text),
        cookie: DirCookie::new(inode + 16),
        inode: InodeId::new(inode),
        kind: FileKind::File,
        attr: Some(attr(inode, 0)),
    }
}

fn present(cache: &Cache, text: &str, now: Instant) -> Option<u64> {
    match cache.lookup(InodeId::ROOT, &name(text), now) {
        Some(Known::Present(attr, _)) => Some(attr.inode.get()),
        _ => None,
    }
}

fn absent(cache: &Cache, text: &str, now: Instant) -> bool {
    matches!(cache.lookup(InodeId::ROOT, &name(text), now), Some(Known::Absent(_)))
}

#[test]
fn knowledge_dies_with_its_lifetime() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    cache.put_entry(InodeId::ROOT, &name("a"), &attr(2, 5), seen(1, now));
    cache.put_name(InodeId::ROOT, &name("b"), None, seen(1, now));
    assert_eq!(present(&cache, "a", now), Some(2));
    assert!(absent(&cache, "b", now));
    let half = now + TTL / 2;
    assert_eq!(cache.attr(InodeId::new(2), half).map(|(_, left)| left), Some(TTL / 2));
    let late = now + TTL;
    assert_eq!(cache.lookup(InodeId::ROOT, &name("a"), late), None);
    assert_eq!(cache.lookup(InodeId::ROOT, &name("b"), late), None);
    assert_eq!(cache.attr(InodeId::new(2), late), None);
}

#[test]
fn a_reply_that_was_overtaken_changes_nothing() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    cache.put_entry(InodeId::ROOT, &name("a"), &attr(2, 5), seen(5, now));
    // unlinked by us at 7; a lookup answered at 6 comes in late
    cache.put_name(InodeId::ROOT, &name("a"), None, seen(7, now));
    cache.forget_attr(InodeId::new(2), LogIndex::new(7));
    cache.put_entry(InodeId::ROOT, &name("a"), &attr(2, 5), seen(6, now));
    assert!(absent(&cache, "a", now));
    assert_eq!(cache.attr(InodeId::new(2), now), None);
    // made again at 8
    cache.put_entry(InodeId::ROOT, &name("a"), &attr(3, 0), seen(8, now));
    assert_eq!(present(&cache, "a", now), Some(3));
}

#[test]
fn an_eviction_does_not_open_the_door_to_older_replies() {
    let (cache, now) = (Cache::new(2, 2), Instant::now());
    cache.put_name(InodeId::ROOT, &name("a"), None, seen(7, now));
    for other in ["b", "c"] {
        cache.put_name(InodeId::ROOT, &name(other), None, seen(8, now));
    }
    cache.put_entry(InodeId::ROOT, &name("a"), &attr(2, 0), seen(6, now));
    assert_eq!(cache.lookup(InodeId::ROOT, &name("a"), now), None, "from before the eviction");
    cache.put_entry(InodeId::ROOT, &name("a"), &attr(2, 0), seen(7, now));
    assert_eq!(present(&cache, "a", now), Some(2));
}

#[test]
fn the_third_miss_within_a_lifetime_fetches_the_directory() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    let miss = |at| cache.note_miss(InodeId::ROOT, at, TTL);
    assert_eq!([miss(now), miss(now), miss(now), miss(now)], [false, false, true, false]);
    let later = now + TTL;
    assert_eq!([miss(later), miss(later), miss(later + TTL)], [false, false, false], "counted per lifetime");
    cache.put_attr(&attr(1, LISTING_ENTRIES_MAX + 1), seen(1, now));
    let huge = later + TTL * 3;
    assert!(!(0..10).any(|_| miss(huge)), "a huge directory is not fetched");
}

#[test]
fn a_complete_directory_answers_for_names_it_does_not_have() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    assert!(cache.put_page(InodeId::ROOT, &[entry("a", 2), entry("b", 3)], seen(4, now)));
    assert_eq!(cache.lookup(InodeId::ROOT, &name("c"), now), None, "not yet complete");
    cache.complete(InodeId::ROOT, seen(4, now));
    assert!(absent(&cache, "c", now));
    // own changes keep it complete and exact
    cache.put_entry(InodeId::ROOT, &name("c"), &attr(4, 0), seen(5, now));
    cache.put_name(InodeId::ROOT, &name("a"), None, seen(6, now));
    assert_eq!(present(&cache, "c", now), Some(4));
    assert!(absent(&cache, "a", now) && absent(&cache, "d", now));
    assert_eq!(cache.lookup(InodeId::ROOT, &name("d"), now + TTL), None, "for its lifetime");
}

#[test]
fn a_listing_that_was_overtaken_keeps_own_changes() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    cache.put_entry(InodeId::ROOT, &name("new"), &attr(9, 0), seen(5, now));
    cache.put_name(InodeId::ROOT, &name("a"), None, seen(6, now));
    assert!(cache.put_page(InodeId::ROOT, &[entry("a", 2), entry("b", 3)], seen(4, now)));
    cache.complete(InodeId::ROOT, seen(4, now));
    assert_eq!(present(&cache, "new", now), Some(9));
    assert!(absent(&cache, "a", now));
}

#[test]
fn an_evicted_name_ends_completeness() {
    let (cache, now) = (Cache::new(10, 3), Instant::now());
    assert!(cache.put_page(InodeId::ROOT, &[entry("a", 2), entry("b", 3)], seen(4, now)));
    cache.complete(InodeId::ROOT, seen(4, now));
    for other in ["x", "y"] {
        cache.put_name(InodeId::new(77), &name(other), None, seen(5, now));
    }
    assert_eq!(cache.lookup(InodeId::ROOT, &name("a"), now), None, "evicted, not absent");
    assert_eq!(cache.lookup(InodeId::ROOT, &name("c"), now), None);
    assert!(!cache.put_page(InodeId::ROOT, &[entry("a", 2)], seen(3, now)), "older than what was evicted");
}

#[test]
fn making_an_entry_changes_the_directory_as_the_master_does() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    cache.put_attr(&Attr { kind: FileKind::Directory, nlink: 2, ..attr(1, 0) }, seen(4, now));
    let at = Timestamp::from_nanos(77);
    cache.entry_made(InodeId::ROOT, at, true, LogIndex::new(5));
    let (root, left) = cache.attr(InodeId::ROOT, now + TTL / 4).expect("still known");
    assert_eq!((root.size, root.nlink, root.mtime, root.ctime), (1, 3, at, at));
    assert_eq!(left, TTL * 3 / 4, "no longer life");
    cache.entry_made(InodeId::ROOT, Timestamp::from_nanos(1), false, LogIndex::new(3));
    assert_eq!(cache.attr(InodeId::ROOT, now).map(|(root, _)| root.size), Some(1), "overtaken");
}

#[test]
fn an_invalidation_drops_what_it_names() {
    let (cache, now) = (Cache::new(10, 10), Instant::now());
    cache.put_page(InodeId::ROOT, &[entry("a", 2), entry("b", 3)], seen(4, now));
    cache.complete(InodeId::ROOT, seen(4, now));
    cache.invalidate(InodeId::ROOT, &[name("a")]);
    assert_eq!(cache.lookup(InodeId::ROOT, &name("a"), now), None);
    assert_eq!(cache.lookup(InodeId::ROOT, &name("c"), now), None);
    assert_eq!(present(&cache, "b", now), Some(3));
}
