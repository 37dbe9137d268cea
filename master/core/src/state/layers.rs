//! The layers of the state and reading through them: active delta, frozen delta, database.
//!
//! A scan merges the layers in key order; the uppermost one that has a key decides. Errors of the
//! database become `FsError::Io` for the operation at hand, their cause is kept in a [`Fault`].

use super::delta::Delta;
use super::table::Table;
use crate::record::State;
use crate::store::StoreError;
use gfs_proto::FsError;
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable};
use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::sync::Arc;

type Bytes = &'static [u8];

/// A read snapshot of the database with all tables open.
pub(crate) struct Base {
    tables: [ReadOnlyTable<Bytes, Bytes>; Table::ALL.len()],
}

impl Base {
    pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self, StoreError> {
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            tables.push(transaction.open_table(table.definition()).map_err(redb::Error::from)?);
        }
        let tables = tables.try_into().unwrap_or_else(|_| unreachable!("one for each of Table::ALL"));
        Ok(Self { tables })
    }

    fn table(&self, table: Table) -> &ReadOnlyTable<Bytes, Bytes> {
        &self.tables[table as usize]
    }
}

/// A delta that is set aside to be merged, with the state that belongs to it.
pub(crate) struct Frozen {
    pub(crate) delta: Delta,
    pub(crate) state: State,
}

/// Everything that readers see.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) active: Delta,
    pub(crate) frozen: Option<Arc<Frozen>>,
    pub(crate) base: Arc<Base>,
    pub(crate) state: State,
}

/// The first error of the database that a reader met.
#[derive(Default)]
pub(crate) struct Fault(OnceCell<StoreError>);

impl Fault {
    pub(crate) fn get(&self) -> Option<&StoreError> {
        self.0.get()
    }
    pub(crate) fn take(self) -> Option<StoreError> {
        self.0.into_inner()
    }
    fn database(&self, error: impl Into<redb::Error>) -> FsError {
        self.keep(StoreError::Database(Box::new(error.into())))
    }
    pub(crate) fn corrupt(&self, table: Table, key: &[u8]) -> FsError {
        self.keep(StoreError::Corrupt { table: table.name(), key: key.to_vec() })
    }
    fn keep(&self, error: StoreError) -> FsError {
        // the first one is the cause, later ones are consequences
        drop(self.0.set(error));
        FsError::Io
    }
}

/// Deltas over the database, the uppermost first.
#[derive(Clone, Copy)]
pub(crate) struct Stack<'a> {
    deltas: [Option<&'a Delta>; 3],
    base: &'a Base,
    fault: &'a Fault,
}

/// What a scan does with a row; the error ends it.
pub(crate) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, FsError> + 'v;

impl<'a> Stack<'a> {
    /// `overlay` lies over the layers: the changes of a command that is being applied.
    pub(crate) fn new(overlay: Option<&'a Delta>, layers: &'a Layers, fault: &'a Fault) -> Self {
        let frozen = layers.frozen.as_deref().map(|frozen| &frozen.delta);
        Self { deltas: [overlay, Some(&layers.active), frozen], base: &layers.base, fault }
    }

    /// The value of a key, decoded by `read`, which says `None` if it is damaged.
    pub(crate) fn get<T>(
        &self,
        table: Table,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, FsError> {
        let decoded = |value: &[u8]| read(value).map(Some).ok_or_else(|| self.fault.corrupt(table, key));
        match self.deltas.iter().flatten().find_map(|delta| delta.get(table, key)) {
            Some(Some(value)) => decoded(value),
            Some(None) => Ok(None),
            None => match self.base.table(table).get(key).map_err(|e| self.fault.database(e))? {
                Some(guard) => decoded(guard.value()),
                None => Ok(None),
            },
        }
    }

    /// Visits the rows from `from` on whose key begins with `prefix`, in order.
    pub(crate) fn scan(&self, table: Table, from: &[u8], prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), FsError> {
        let mut merged = Merged::open(self, table, from)?;
        while let Some(key) = merged.lowest() {
            if !key.starts_with(prefix) {
                break;
            }
            let key = key.to_vec();
            let flow = merged.value_of(&key).map(|value| visit(&key, value));
            if let Some(flow) = flow
                && flow?.is_break()
            {
                break;
            }
            merged.pass(&key)?;
        }
        Ok(())
    }

    pub(crate) fn fault(&self) -> &'a Fault {
        self.fault
    }
}

type DeltaRow<'a> = (&'a [u8], Option<&'a [u8]>);
type BaseRow<'a> = (AccessGuard<'a, Bytes>, AccessGuard<'a, Bytes>);

/// The next row of each layer.
struct Merged<'a, I> {
    deltas: Vec<(Option<DeltaRow<'a>>, I)>,
    base: Option<BaseRow<'a>>,
    rest: redb::Range<'a, Bytes, Bytes>,
    fault: &'a Fault,
}

impl<'a> Merged<'a, ()> {
    fn open(
        stack: &Stack<'a>,
        table: Table,
        from: &[u8],
    ) -> Result<Merged<'a, impl Iterator<Item = DeltaRow<'a>> + use<'a>>, FsError> {
        let deltas = stack.deltas.iter().flatten().map(|delta| {
            let mut rows = delta.range(table, from);
            (rows.next(), rows)
        });
        let deltas = deltas.collect();
        let fault = stack.fault;
        let rest = ReadableTable::range::<&[u8]>(stack.base.table(table), from..).map_err(|e| fault.database(e))?;
        let mut merged = Merged { deltas, base: None, rest, fault };
        merged.advance_base()?;
        Ok(merged)
    }
}

impl<'a, I: Iterator<Item = DeltaRow<'a>>> Merged<'a, I> {
    fn lowest(&self) -> Option<&[u8]> {
        let deltas = self.deltas.iter().filter_map(|(head, _)| head.map(|(key, _)| key));
        deltas.chain(self.base.as_ref().map(|(key, _)| key.value())).min()
    }

    /// The value that the uppermost layer with that key has; `None` if it says the key is gone.
    fn value_of(&self, key: &[u8]) -> Option<&[u8]> {
        let mut heads = self.deltas.iter().filter_map(|(head, _)| *head);
        match heads.find(|(k, _)| *k == key) {
            Some((_, value)) => value,
            None => self.base.as_ref().map(|(_, value)| value.value()),
        }
    }

    fn pass(&mut self, key: &[u8]) -> Result<(), FsError> {
        for (head, rows) in &mut self.deltas {
            if head.is_some_and(|(k, _)| k == key) {
                *head = rows.next();
            }
        }
        if self.base.as_ref().is_some_and(|(k, _)| k.value() == key) { self.advance_base() } else { Ok(()) }
    }

    fn advance_base(&mut self) -> Result<(), FsError> {
        self.base = self.rest.next().transpose().map_err(|e| self.fault.database(e))?;
        Ok(())
    }
}
