//! Hands raft's own log lines to `tracing`.

use std::fmt::{self, Write};

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// A logger for a raft node.
pub(super) fn root() -> Logger {
    Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut line = Line(record.msg().to_string());
        // A line without its values is better than none.
        let _ = record.kv().serialize(record, &mut line).and_then(|()| values.serialize(record, &mut line));
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{}", line.0),
            Level::Warning => tracing::warn!(target: "raft", "{}", line.0),
            _ => tracing::debug!(target: "raft", "{}", line.0),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error | Level::Warning => true,
            Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => false,
        }
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, ", {key}: {value}")?)
    }
}
