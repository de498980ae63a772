//! The inverted index: SQLite's FTS5, which keeps only where words are, never the texts.
//!
//! ```text
//! words     word -> numbers (FTS5 without content: a message's words cannot be read back in order)
//! messages  number -> place, first bytes of the id, claimed time, first bytes of what it names: what answers are ranked by
//! covered   the last message that was looked at; one row
//! ```
//!
//! A place is a message's offset in the log; numbers are dense, so that a word takes little more than a byte for each
//! message. What always holds: the three change together, so an index that is there
//! covers what it says. Everything can be made again from the log, so a file that is damaged, of another version or of
//! another log is deleted and begun anew. Words of a message that is deleted are overwritten on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hawsepipe_replication::graph::Mark;
use hawsepipe_replication::refs::MessageId;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, params};

use super::document::{Document, NAME_MARK};
use super::words::Asked;

/// Raise it with any change of [`Document`], of the rules for words, or of the tables.
const VERSION: i64 = 1;

/// SQLite's cache of pages for one connection, in KiB.
const CACHE_KIB: i64 = 1024;
/// Answers after which it is asked whether anybody still waits for them.
const LOOK_EVERY: usize = 512;

const TABLES: &str = "
    CREATE VIRTUAL TABLE words USING fts5(text, content='', detail=none, columnsize=0, tokenize='ascii');
    INSERT INTO words(words, rank) VALUES('secure-delete', 1);
    CREATE TABLE messages(number INTEGER PRIMARY KEY, place INTEGER NOT NULL, id INTEGER NOT NULL, time REAL NOT NULL, links BLOB NOT NULL);
    CREATE TABLE covered(one INTEGER PRIMARY KEY CHECK (one = 1), place INTEGER NOT NULL, id BLOB NOT NULL);";

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// It has to be made anew.
    #[error("the search index is damaged: {0}")]
    Damaged(rusqlite::Error),
    /// The disk is full, or the file cannot be opened.
    #[error("the search index cannot be used: {0}")]
    Unusable(rusqlite::Error),
    /// Its folder cannot be made, or an old file not be removed.
    #[error("the folder of the search index: {0}")]
    Io(#[from] io::Error),
    /// Nobody waits for the answer any more.
    #[error("the question was taken back")]
    Stopped,
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport,
            ) => Self::Unusable(error),
            _ => Self::Damaged(error),
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hit {
    pub(super) place: u64,
    pub(super) id: u64,
    pub(super) time: f64,
    pub(super) links: Vec<u64>,
}

/// What is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Words of texts.
    Text,
    /// Words of the names of blobs.
    BlobNames,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Index {
    db: Connection,
}

impl Index {
    /// The index in a file, which is begun anew if it is of no use.
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        match Self::open_existing(path) {
            Err(IndexError::Damaged(error)) => {
                tracing::info!(%error, "the search index is made anew");
                remove(path)?;
                Self::open_existing(path)
            }
            other => other,
        }
    }

    fn open_existing(path: &Path) -> Result<Self, IndexError> {
        let db = Connection::open(path)?;
        // What is lost by a crash of the machine is indexed again.
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON;",
        )?;
        let check: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        let index = Self { db };
        if check != "ok" {
            return Err(IndexError::Damaged(rusqlite::Error::InvalidQuery));
        }
        index.prepare()
    }

    /// Another connection to a file that [`open`](Self::open) has opened, for reading beside the one that writes.
    pub(super) fn attach(path: &Path) -> Result<Self, IndexError> {
        let index = Self { db: Connection::open(path)? };
        index.bound_memory()?;
        Ok(index)
    }

    /// An index in memory alone.
    pub(super) fn in_memory() -> Result<Self, IndexError> {
        Self { db: Connection::open_in_memory()? }.prepare()
    }

    fn prepare(self) -> Result<Self, IndexError> {
        self.bound_memory()?;
        let version: i64 = self.db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            VERSION => {}
            0 => {
                self.db
                    .execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?;
            }
            _ => return Err(IndexError::Damaged(rusqlite::Error::InvalidQuery)),
        }
        self.covered()?;
        Ok(self)
    }

    fn bound_memory(&self) -> Result<(), IndexError> {
        let settings =
            format!("PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;");
        Ok(self.db.execute_batch(&settings)?)
    }

    /// The last message that was looked at.
    pub(super) fn covered(&self) -> Result<Option<Mark>, IndexError> {
        let row = self.db.query_row("SELECT place, id FROM covered", [], |row| {
            Ok(Mark { offset: row.get::<_, i64>(0)? as u64, id: MessageId::from_bytes(row.get(1)?) })
        });
        Ok(row.optional()?)
    }

    /// Adds messages; all up to `until` have been looked at.
    pub(super) fn add(&mut self, documents: &[(u64, Document)], until: Mark) -> Result<(), IndexError> {
        let change = self.db.transaction()?;
        add_all(&change, documents)?;
        change.execute(
            "INSERT OR REPLACE INTO covered(one, place, id) VALUES(1, ?1, ?2)",
            params![until.offset as i64, until.id.as_bytes()],
        )?;
        Ok(change.commit()?)
    }

    /// Adds messages out of the order of the log.
    pub(super) fn add_some(&mut self, documents: &[(u64, Document)]) -> Result<(), IndexError> {
        let change = self.db.transaction()?;
        add_all(&change, documents)?;
        Ok(change.commit()?)
    }

    /// Removes a message, which was added as `document`.
    pub(super) fn remove(&mut self, place: u64, document: &Document) -> Result<(), IndexError> {
        let change = self.db.transaction()?;
        // There is no index of places: deletions are few.
        let number = change.query_row(
            "DELETE FROM messages WHERE place = ?1 RETURNING number",
            [place as i64],
            |row| row.get::<_, i64>(0),
        );
        if let Some(number) = number.optional()? {
            change.execute(
                "INSERT INTO words(words, rowid, text) VALUES('delete', ?1, ?2)",
                params![number, document.words],
            )?;
        }
        change.commit()?;
        // The words are still in the write-ahead log.
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// The newest messages with all these words, at most so many, newest first; `goes_on` is asked now and then whether
    /// anybody still wants to know.
    pub(super) fn find(
        &self,
        field: Field,
        asked: &[Asked],
        most: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Hit>, IndexError> {
        let mut hits = Vec::new();
        if asked.is_empty() {
            return Ok(hits);
        }
        let mut select = self.db.prepare(
            "SELECT m.place, m.id, m.time, m.links FROM words JOIN messages m ON m.number = words.rowid
             WHERE words MATCH ?1 ORDER BY words.rowid DESC LIMIT ?2",
        )?;
        let mut rows =
            select.query(params![expression(field, asked), i64::try_from(most).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            if hits.len() % LOOK_EVERY == 0 && !goes_on() {
                return Err(IndexError::Stopped);
            }
            let links = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
            hits.push(Hit {
                place: row.get::<_, i64>(0)? as u64,
                id: row.get::<_, i64>(1)? as u64,
                time: row.get(2)?,
                links: links.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
            });
        }
        Ok(hits)
    }
}

fn add_all(change: &Transaction<'_>, documents: &[(u64, Document)]) -> Result<(), rusqlite::Error> {
    let mut words = change.prepare("INSERT INTO words(rowid, text) VALUES(?1, ?2)")?;
    let mut messages = change
        .prepare("INSERT INTO messages(place, id, time, links) VALUES(?1, ?2, ?3, ?4) RETURNING number")?;
    for (place, document) in documents {
        let links: Vec<u8> = document.links.iter().flat_map(|link| link.to_le_bytes()).collect();
        let row = params![*place as i64, document.id as i64, document.time, links];
        let number: i64 = messages.query_row(row, |row| row.get(0))?;
        words.execute(params![number, document.words])?;
    }
    Ok(())
}

/// What is asked in FTS5's language. Words are letters, digits and symbols, so quotes around them are enough.
fn expression(field: Field, asked: &[Asked]) -> String {
    let term = |asked: &Asked| {
        let mark = match field {
            Field::Text => String::new(),
            Field::BlobNames => NAME_MARK.to_string(),
        };
        format!("\"{mark}{}\"{}", asked.word, if asked.is_prefix { "*" } else { "" })
    };
    asked.iter().map(term).collect::<Vec<_>>().join(" ")
}

/// Deletes the index in a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::remove_file(PathBuf::from(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::words::asked;
    use super::*;

    fn document(n: u8, text: &str) -> (u64, Document) {
        let content = json!({ "type": "post", "text": text }).to_string();
        let id = MessageId::from_bytes([n; 32]);
        (u64::from(n) * 100, Document::new(&id, f64::from(n), &content).unwrap())
    }

    fn mark(n: u8) -> Mark {
        Mark { offset: u64::from(n) * 100, id: MessageId::from_bytes([n; 32]) }
    }

    fn places(index: &Index, question: &str, most: usize) -> Vec<u64> {
        let hits = index.find(Field::Text, &asked(question), most, &|| true).unwrap();
        hits.iter().map(|hit| hit.place).collect()
    }

    fn filled(mut index: Index) -> Index {
        let texts = ["a ship at sea", "ships in the night", "the sea, the sea", "東京タワー"];
        let documents: Vec<_> = texts.iter().zip(1..).map(|(text, n)| document(n, text)).collect();
        index.add(&documents, mark(9)).unwrap();
        index
    }

    #[test]
    fn all_words_must_be_there_and_words_may_go_on() {
        let index = filled(Index::in_memory().unwrap());
        assert_eq!(places(&index, "ship", 9), [200, 100]);
        assert_eq!(places(&index, "SHIPS", 9), [200]);
        assert_eq!(places(&index, "ship sea", 9), [100]);
        assert_eq!(places(&index, "the", 1), [300]);
        assert_eq!(places(&index, "タワ", 9), [400]);
        assert_eq!(places(&index, "京", 9), [400]);
        assert_eq!(places(&index, "タ京", 9), [0; 0]);
        assert_eq!(places(&index, "\" OR ship* NEAR(", 9), [0; 0], "no word of a question is a command");
        assert_eq!(places(&index, "", 9), [0; 0]);
        assert_eq!(index.covered().unwrap(), Some(mark(9)));
    }

    #[test]
    fn names_of_blobs_are_no_words_of_texts() {
        let mut index = Index::in_memory().unwrap();
        let blob = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";
        let content =
            json!({ "text": "look", "mentions": [{ "link": blob, "name": "cat.png" }] }).to_string();
        let found = Document::new(&MessageId::from_bytes([1; 32]), 1.0, &content).unwrap();
        index.add(&[(100, found)], mark(1)).unwrap();
        let find = |field, question| index.find(field, &asked(question), 9, &|| true).unwrap().len();
        assert_eq!(
            [find(Field::Text, "cat"), find(Field::BlobNames, "cat"), find(Field::BlobNames, "look")],
            [0, 1, 0]
        );
    }

    #[test]
    fn what_is_removed_is_not_on_the_disk_either() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = filled(Index::open(&path).unwrap());
        let (place, secret) = document(5, "xyzzyplugh");
        index.add(&[(place, secret.clone())], mark(9)).unwrap();
        index.remove(place, &secret).unwrap();
        index.remove(place, &secret).unwrap();
        assert_eq!(places(&index, "xyzzyplugh", 9), [0; 0]);
        assert_eq!(places(&index, "sea", 9), [300, 100]);
        drop(index);
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(10).any(|window| window == b"xyzzyplugh"));
    }

    #[test]
    fn it_is_there_after_a_restart_and_beside_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = filled(Index::open(&path).unwrap());
        let reader = Index::attach(&path).unwrap();
        index.add(&[document(6, "another ship")], mark(6)).unwrap();
        assert_eq!(places(&reader, "ship", 9), [600, 200, 100]);
        drop((index, reader));
        let index = Index::open(&path).unwrap();
        assert_eq!(
            (places(&index, "ship", 9), index.covered().unwrap()),
            (vec![600, 200, 100], Some(mark(6)))
        );
    }

    #[test]
    fn a_file_that_is_of_no_use_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        for damage in [
            |path: &Path| fs::write(path, b"not a database, whatever it is called").unwrap(),
            |path: &Path| {
                let length = fs::metadata(path).unwrap().len();
                fs::File::options().write(true).open(path).unwrap().set_len(length / 2).unwrap();
            },
            |path: &Path| {
                let mut bytes = fs::read(path).unwrap();
                let middle = bytes.len() / 2;
                bytes[4096..middle].fill(0xa5);
                fs::write(path, bytes).unwrap();
            },
            |path: &Path| Connection::open(path).unwrap().execute_batch("PRAGMA user_version = 999").unwrap(),
        ] {
            drop(filled(Index::open(&path).unwrap()));
            damage(&path);
            let index = Index::open(&path).unwrap();
            assert_eq!((places(&index, "ship", 9), index.covered().unwrap()), (vec![], None));
            drop(index);
            remove(&path).unwrap();
        }
    }

    #[test]
    fn a_question_that_is_taken_back_is_not_answered() {
        let index = filled(Index::in_memory().unwrap());
        let stopped = index.find(Field::Text, &asked("ship"), 9, &|| false);
        assert!(matches!(stopped, Err(IndexError::Stopped)));
    }
}
