//! What an application keeps with a session: named values with a version, for compare-and-set.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The values of one session. Each change makes the next version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionData {
    version: u64,
    /// JSON texts by name.
    values: BTreeMap<Box<str>, Bytes>,
}

/// A change of a session's values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Set(Box<str>, Bytes),
    Delete(Box<str>),
    /// All of them.
    Replace(BTreeMap<Box<str>, Bytes>),
}

impl SessionData {
    /// As a store kept them.
    #[must_use]
    pub fn restore(version: u64, values: BTreeMap<Box<str>, Bytes>) -> Self {
        Self { version, values }
    }

    /// Counts changes; 0: there was none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Bytes> {
        self.values.get(name)
    }

    /// All values, by name.
    #[must_use]
    pub fn values(&self) -> &BTreeMap<Box<str>, Bytes> {
        &self.values
    }

    /// Carries out `change`; returns the version that it made. `None`: `if_version` was given and is not
    /// the present one, nothing has changed. What changes nothing makes no version.
    pub fn apply(&mut self, change: Change, if_version: Option<u64>) -> Option<u64> {
        if if_version.is_some_and(|version| version != self.version) {
            return None;
        }
        let changed = match change {
            Change::Set(name, value) => self.values.insert(name, value.clone()) != Some(value),
            Change::Delete(name) => self.values.remove(&name).is_some(),
            Change::Replace(values) => std::mem::replace(&mut self.values, values) != self.values,
        };
        self.version += u64::from(changed);
        Some(self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &'static str) -> Change {
        Change::Set(name.into(), Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn each_change_makes_a_version() {
        let mut data = SessionData::default();
        assert_eq!(data.apply(set("a", "1"), None), Some(1));
        assert_eq!(data.apply(set("a", "1"), None), Some(1), "nothing has changed");
        assert_eq!(data.apply(set("a", "2"), None), Some(2));
        assert_eq!(data.apply(Change::Delete("b".into()), None), Some(2));
        assert_eq!(data.apply(Change::Delete("a".into()), None), Some(3));
        assert_eq!(data.apply(Change::Replace(BTreeMap::new()), None), Some(3));
        let values = BTreeMap::from([(Box::from("c"), Bytes::from_static(b"3"))]);
        assert_eq!(data.apply(Change::Replace(values.clone()), None), Some(4));
        assert_eq!((data.version(), data.values()), (4, &values));
    }

    #[test]
    fn a_change_for_another_version_changes_nothing() {
        let mut data = SessionData::default();
        assert_eq!(data.apply(set("a", "1"), Some(1)), None);
        assert_eq!(data.value("a"), None);
        assert_eq!(data.apply(set("a", "1"), Some(0)), Some(1));
        assert_eq!(data.apply(set("a", "2"), Some(0)), None);
        assert_eq!((data.version(), data.value("a").map(|value| &value[..])), (1, Some(&b"1"[..])));
    }
}
