//! No thread takes a view of a store while it holds another one: as soon as a writer waits in between, both wait for
//! ever. In debug builds that is a panic at once, whether a writer waits or not, so that every test that comes by finds
//! it; in release builds nothing is checked, because there the nesting alone does no harm.

#[cfg(debug_assertions)]
use std::cell::RefCell;

#[cfg(debug_assertions)]
thread_local! {
    /// Stores of which this thread holds a view.
    static VIEWED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// That this thread holds a view of a store, until dropped.
#[derive(Debug)]
pub(crate) struct Alone {
    #[cfg(debug_assertions)]
    store: usize,
}

impl Alone {
    /// Called before the lock of `store` is taken.
    pub(crate) fn with<T>(store: &T) -> Self {
        check(store);
        #[cfg(debug_assertions)]
        VIEWED.with_borrow_mut(|viewed| viewed.push(address(store)));
        Self {
            #[cfg(debug_assertions)]
            store: address(store),
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for Alone {
    fn drop(&mut self) {
        VIEWED.with_borrow_mut(|viewed| {
            if let Some(at) = viewed.iter().rposition(|store| *store == self.store) {
                viewed.swap_remove(at);
            }
        });
    }
}

/// Panics in debug builds if this thread holds a view of `store`.
pub(crate) fn check<T>(store: &T) {
    #[cfg(debug_assertions)]
    VIEWED.with_borrow(|viewed| {
        assert!(!viewed.contains(&address(store)), "a view of the store is held: with a writer that waits both hang");
    });
    let _ = store; // nothing is checked in a release build
}

#[cfg(debug_assertions)]
fn address<T>(store: &T) -> usize {
    std::ptr::from_ref(store).addr()
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_and_of_different_stores_is_fine() {
        let (one, other) = (1u64, 2u64);
        let first = Alone::with(&one);
        let second = Alone::with(&other);
        drop(first);
        check(&one);
        drop(second);
        check(&other);
    }

    #[test]
    #[should_panic(expected = "a view of the store is held")]
    fn one_within_the_other_is_not() {
        let store = 1u64;
        let _first = Alone::with(&store);
        let _second = Alone::with(&store);
    }
}
