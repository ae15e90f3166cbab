//! Rows as JSON: what the encrypted bundle is made of, and how a store is made of them again.
//!
//! Tables are dumped by name with whatever columns they have, so that a migration needs nothing here but a new
//! table's name. A store is restored at the version its rows were dumped from, and then migrated like any other.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::{Value as SqlValue, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params_from_iter};
use serde_json::{Map, Value, json};

use super::{Store, StoreError, View, connect, create_private, prepare, schema};
use crate::hash::{from_hex, to_hex};

/// A table of which rows are dumped.
#[derive(Debug, PartialEq, Eq)]
pub struct DumpTable {
    /// What its rows go by.
    pub name: &'static str,
    /// The table they are in, which may have further ones under another name.
    source: &'static str,
    /// The columns that tell its rows apart.
    pub key: &'static [&'static str],
    /// Rows are only ever added, under rising numbers in the first column of the key.
    pub appended: bool,
    /// A row is never changed: whoever has all keys has all rows.
    pub fixed: bool,
    /// Which rows are dumped.
    filter: &'static str,
}

/// What nothing else can restore, in an order in which references are met. Not dumped are projections of a member's
/// log, what is on its way, what strangers sent, and settings.
pub const DUMP_TABLES: &[DumpTable] = &[
    latest("meta", &["key"], "key <> 'inc'"),
    latest("cohorts", &["cohort", "role"], "1"),
    latest("dids", &["did"], "1"),
    latest("did_keys", &["did", "key_index"], "1"),
    latest("did_adopted", &["did"], "1"),
    latest(
        "did_bindings",
        &["cohort", "role", "idx"],
        "role = 'participant'",
    ),
    latest("updates", &["did", "target_version"], "1"),
    latest("singleton_spends", &["txid"], "1"),
    latest(
        "transactions",
        &["txid"],
        "cohort IN (SELECT cohort FROM cohorts WHERE role = 'aggregator')",
    ),
    latest("lanes", &["author", "recipient", "cohort"], "1"),
    // The newest one: the one before it is for a damaged page, which a bundle notices by itself.
    DumpTable {
        fixed: true,
        ..latest(
            "snapshots",
            &["cohort", "role", "seq"],
            "seq = (SELECT max(newest.seq) FROM snapshots AS newest
                    WHERE newest.cohort = snapshots.cohort AND newest.role = snapshots.role)",
        )
    },
    // Signed signals are on the chain. Refunds, which belong to no round, are not until they are needed.
    appended("artifacts", &["id"], "(kind <> 'raw_tx' OR round = 0)"),
    appended("log", &["seq"], "role = 'participant'"),
    // Bundles of releases before it was dumped have none of it; by its own name what they lack is known.
    DumpTable {
        source: "log",
        ..appended("aggregator_log", &["seq"], "role = 'aggregator'")
    },
];

const fn latest(
    name: &'static str,
    key: &'static [&'static str],
    filter: &'static str,
) -> DumpTable {
    DumpTable {
        name,
        source: name,
        key,
        appended: false,
        fixed: false,
        filter,
    }
}

const fn appended(
    name: &'static str,
    key: &'static [&'static str],
    filter: &'static str,
) -> DumpTable {
    DumpTable {
        name,
        source: name,
        key,
        appended: true,
        fixed: false,
        filter,
    }
}

/// The table with this name, if it is one that is dumped.
#[must_use]
pub fn dump_table(name: &str) -> Option<&'static DumpTable> {
    DUMP_TABLES.iter().find(|table| table.name == name)
}

/// A row as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpRow {
    /// Its key: the values of the key columns, as a JSON array.
    pub key: String,
    /// Its number, in a table to which rows are only added; else 0.
    pub number: i64,
    /// An object of all columns. Numbers, texts and nulls as they are; bytes as `{"utf8": …}` or `{"hex": …}`.
    pub json: String,
}

impl Store {
    /// Where the store is; nowhere for one in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        let path = self.conn.path().filter(|path| !path.is_empty())?;
        Some(Path::new(path))
    }

    /// A number that changes when another connection has committed something.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        Ok(self
            .conn
            .pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    /// Reads several things as of one moment, whatever is committed meanwhile.
    ///
    /// # Errors
    /// What `read` returned, or why reading failed.
    pub fn snapshot<T, E: From<StoreError>>(
        &mut self,
        read: impl FnOnce(&View<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self.conn.transaction().map_err(StoreError::from)?;
        read(&View { conn: &transaction })
    }
}

impl View<'_> {
    /// The number of migrations the store has had.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn schema_version(&self) -> Result<u32, StoreError> {
        let version = self
            .conn
            .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
        Ok(version)
    }

    /// Whether the store has this table.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn has_table(&self, table: &DumpTable) -> Result<bool, StoreError> {
        has_table(self.conn, table.source)
    }

    /// Hands the rows of a table to `each`: all of them, or where rows are only added those above `after`, in
    /// the order of their numbers.
    ///
    /// # Errors
    /// What `each` returned, or why reading failed.
    pub fn dump<E: From<StoreError>>(
        &self,
        table: &DumpTable,
        after: i64,
        mut each: impl FnMut(DumpRow) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.has_table(table)? {
            return Ok(());
        }
        let columns = table.key.join(", ");
        // Names and conditions are this program's own.
        let sql = match (table.appended, table.key) {
            (true, [number, ..]) => format!(
                "SELECT * FROM {} WHERE {number} > {after} AND {} ORDER BY {number}",
                table.source, table.filter
            ),
            _ => format!(
                "SELECT * FROM {} WHERE {} ORDER BY {columns}",
                table.source, table.filter
            ),
        };
        let mut statement = self.conn.prepare(&sql).map_err(StoreError::from)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([]).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            let mut object = Map::new();
            let mut number = 0;
            for (at, name) in names.iter().enumerate() {
                let value = row.get_ref(at).map_err(StoreError::from)?;
                if let (true, Some(of), ValueRef::Integer(n)) =
                    (table.appended, table.key.first(), value)
                    && of == name
                {
                    number = n;
                }
                object.insert(name.clone(), to_json(value));
            }
            let key: Vec<&Value> = table
                .key
                .iter()
                .filter_map(|name| object.get(*name))
                .collect();
            let row = DumpRow {
                key: json!(key).to_string(),
                number,
                json: Value::Object(object).to_string(),
            };
            each(row)?;
        }
        Ok(())
    }

    /// The keys of the rows of a table that are dumped, as [`DumpRow::key`] has them.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn dump_keys(&self, table: &DumpTable) -> Result<Vec<String>, StoreError> {
        if !self.has_table(table)? {
            return Ok(Vec::new());
        }
        // Names and conditions are this program's own.
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            table.key.join(", "),
            table.source,
            table.filter
        );
        let mut statement = self.conn.prepare(&sql)?;
        let keys = statement.query_map([], |row| {
            let values = (0..table.key.len()).map(|at| row.get_ref(at).map(to_json));
            let key = values.collect::<Result<Vec<Value>, _>>()?;
            Ok(json!(key).to_string())
        })?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    /// How many rows of a table are dumped.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn dump_count(&self, table: &DumpTable) -> Result<u64, StoreError> {
        if !self.has_table(table)? {
            return Ok(0);
        }
        // Names and conditions are this program's own.
        let sql = format!(
            "SELECT count(*) FROM {} WHERE {}",
            table.source, table.filter
        );
        let count: i64 = self.conn.query_row(&sql, [], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// One row of a table to which rows are only added.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn dump_one(&self, table: &DumpTable, number: i64) -> Result<Option<DumpRow>, StoreError> {
        let mut found = None;
        let stop = || StoreError::Missing {
            what: "further row".to_owned(),
        };
        let read = self.dump::<StoreError>(table, number.saturating_sub(1), |row| {
            found = Some(row);
            // One is enough.
            Err(stop())
        });
        match (found, read) {
            (Some(row), _) => Ok((row.number == number).then_some(row)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(None),
        }
    }
}

/// A store in the making, out of dumped rows. It is nothing until [`Restoring::finish`].
#[derive(Debug)]
pub struct Restoring {
    conn: Connection,
    /// The last row under each key, in the order in which tables refer to each other.
    latest: BTreeMap<(usize, String), Map<String, Value>>,
    rows: u64,
}

impl Restoring {
    /// Begins a new store at `path`, with the schema its rows were dumped from.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] for rows of a newer program; [`StoreError::CannotOpen`] if a file is there.
    pub fn begin(path: &Path, schema_version: u32) -> Result<Self, StoreError> {
        if path.exists() {
            return Err(StoreError::CannotOpen {
                path: path.to_owned(),
                reason: "a file is already there".to_owned(),
            });
        }
        let known = schema::MIGRATIONS.len();
        let migrations = usize::try_from(schema_version)
            .ok()
            .and_then(|version| schema::MIGRATIONS.get(..version))
            .filter(|migrations| !migrations.is_empty())
            .ok_or_else(|| StoreError::NewerSchema {
                found: schema_version.into(),
                known: i64::try_from(known).unwrap_or(i64::MAX),
            })?;
        create_private(path).map_err(|error| StoreError::CannotOpen {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = connect(path, flags)?;
        prepare(&conn)?;
        schema::migrate(&mut conn, 0, migrations)?;
        conn.execute_batch("BEGIN IMMEDIATE; PRAGMA defer_foreign_keys = ON")?;
        Ok(Self {
            conn,
            latest: BTreeMap::new(),
            rows: 0,
        })
    }

    /// Takes a row; `None` says that the row under this key is gone.
    ///
    /// # Errors
    /// [`StoreError::Rule`] for a row that this store can not have; [`StoreError`] if writing fails.
    pub fn row(&mut self, table: &str, key: &str, row: Option<&str>) -> Result<(), StoreError> {
        let at = DUMP_TABLES.iter().position(|known| known.name == table);
        let Some((at, table)) = at.and_then(|at| Some((at, DUMP_TABLES.get(at)?))) else {
            return Err(foreign(format!("rows of a table {table:?}")));
        };
        let parsed = match row {
            Some(row) => Some(
                serde_json::from_str::<Map<String, Value>>(row)
                    .map_err(|error| foreign(format!("a row of {}: {error}", table.name)))?,
            ),
            None => None,
        };
        match (table.appended, parsed) {
            (true, Some(row)) => self.insert(table, &row),
            (true, None) => Err(foreign(format!("a row taken out of {}", table.name))),
            (false, Some(row)) => {
                self.latest.insert((at, key.to_owned()), row);
                Ok(())
            }
            (false, None) => {
                self.latest.remove(&(at, key.to_owned()));
                Ok(())
            }
        }
    }

    /// The last rows of a table so far, to be changed before they are written.
    pub fn rows_of(&mut self, table: &str) -> impl Iterator<Item = &mut Map<String, Value>> {
        let at = DUMP_TABLES.iter().position(|known| known.name == table);
        self.latest
            .iter_mut()
            .filter(move |((of, _), _)| Some(*of) == at)
            .map(|(_, row)| row)
    }

    /// Writes everything, migrates it to this program's schema and checks it. The file is a store then.
    ///
    /// # Errors
    /// [`StoreError`] if rows contradict each other or writing fails.
    pub fn finish(mut self) -> Result<u64, StoreError> {
        for ((at, _), row) in std::mem::take(&mut self.latest) {
            if let Some(table) = DUMP_TABLES.get(at) {
                self.insert(table, &row)?;
            }
        }
        self.conn.execute_batch("COMMIT")?;
        let from = self
            .conn
            .pragma_query_value(None, "user_version", |row| row.get(0))?;
        schema::migrate(&mut self.conn, from, schema::MIGRATIONS)?;
        let store = Store { conn: self.conn };
        store.check()?;
        Ok(self.rows)
    }

    fn insert(&mut self, table: &DumpTable, row: &Map<String, Value>) -> Result<(), StoreError> {
        if !has_table(&self.conn, table.source)? {
            return Err(foreign(format!("rows of a later table {}", table.name)));
        }
        let plain = |name: &String| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if row.is_empty() || !row.keys().all(plain) {
            return Err(foreign(format!(
                "a row of {} with other columns",
                table.name
            )));
        }
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        let places: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
        // The store itself begins with a few facts.
        let verb = if table.name == "meta" {
            "INSERT OR REPLACE"
        } else {
            "INSERT"
        };
        let sql = format!(
            "{verb} INTO {} ({}) VALUES ({})",
            table.source,
            names.join(", "),
            places.join(", ")
        );
        let values = row
            .values()
            .map(|value| {
                from_json(value).ok_or_else(|| foreign(format!("a value of {}", table.name)))
            })
            .collect::<Result<Vec<SqlValue>, _>>()?;
        let mut statement = self.conn.prepare_cached(&sql)?;
        statement.execute(params_from_iter(values))?;
        self.rows = self.rows.saturating_add(1);
        Ok(())
    }
}

fn foreign(what: String) -> StoreError {
    StoreError::Foreign { what }
}

fn has_table(conn: &Connection, name: &str) -> Result<bool, StoreError> {
    let found = conn
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1",
            [name],
            |_| Ok(()),
        )
        .optional()?;
    Ok(found.is_some())
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => json!(n),
        ValueRef::Real(n) => json!(n),
        ValueRef::Text(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!({ "utf8": text }),
            Err(_) => json!({ "hex": to_hex(bytes) }),
        },
    }
}

fn from_json(value: &Value) -> Option<SqlValue> {
    match value {
        Value::Null => Some(SqlValue::Null),
        Value::Number(n) => n
            .as_i64()
            .map(SqlValue::Integer)
            .or_else(|| n.as_f64().map(SqlValue::Real)),
        Value::String(text) => Some(SqlValue::Text(text.clone())),
        Value::Object(bytes) if bytes.len() == 1 => {
            let text = |name: &str| bytes.get(name).and_then(Value::as_str);
            match (text("utf8"), text("hex")) {
                (Some(text), _) => Some(SqlValue::Blob(text.as_bytes().to_vec())),
                (_, Some(hex)) => from_hex(hex).ok().map(SqlValue::Blob),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
