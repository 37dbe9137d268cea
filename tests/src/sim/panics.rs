//! Panics inside a world are violations, wherever the runtime would swallow them.

use super::entropy;
use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From here on panics in worlds are kept instead of printed.
pub(super) fn keep() {
    static KEEP: Once = Once::new();
    KEEP.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if entropy::is_inside() {
                PANIC.with_borrow_mut(|first| {
                    first.get_or_insert_with(|| info.to_string());
                });
            } else {
                before(info);
            }
        }));
    });
}

/// The first panic since the last call.
pub(super) fn taken() -> Option<String> {
    PANIC.take()
}
