//! Values on their way to PHP.

use std::sync::Arc;

use ext_php_rs::convert::IntoZval;
use ext_php_rs::flags::DataType;
use ext_php_rs::types::{ZendHashTable, ZendStr, Zval};
use lifeline_engine::bridge::{Stat, Stats};

/// A PHP string of any bytes: the one copy on the way in.
#[inline]
pub(crate) fn bytes(value: &[u8]) -> Zval {
    let mut zval = Zval::new();
    zval.set_zend_string(ZendStr::new(value, false));
    zval
}

/// A PHP string.
#[inline]
pub(crate) fn text(value: &str) -> Zval {
    bytes(value.as_bytes())
}

/// The entries of an array, in order, keys of any bytes. What `ZendHashTable` has for this panics at a key that is not
/// UTF-8.
pub(crate) fn entries(array: &ZendHashTable) -> impl Iterator<Item = (Zval, &Zval)> {
    let mut entries = array.iter();
    std::iter::from_fn(move || entries.next_zval())
}

/// A key as text; bytes that are not UTF-8 replaced.
pub(crate) fn key_text(key: &Zval) -> String {
    match key.zend_str() {
        Some(name) => String::from_utf8_lossy(name.as_bytes()).into_owned(),
        None => key.long().unwrap_or_default().to_string(),
    }
}

/// `null`.
pub(crate) fn null() -> Zval {
    let mut zval = Zval::new();
    zval.set_null();
    zval
}

#[inline]
pub(crate) fn int(value: i64) -> Zval {
    let mut zval = Zval::new();
    zval.set_long(value);
    zval
}

#[inline]
pub(crate) fn boolean(value: bool) -> Zval {
    let mut zval = Zval::new();
    zval.set_bool(value);
    zval
}

/// A list.
pub(crate) fn list(values: impl IntoIterator<Item = Zval>) -> Zval {
    let mut table = ZendHashTable::new();
    for value in values {
        // Fails only when the next index overflows.
        let _ = table.push(value);
    }
    let mut zval = Zval::new();
    zval.set_hashtable(table);
    zval
}

/// A list of strings.
pub(crate) fn names(names: &[Arc<str>]) -> Zval {
    list(names.iter().map(|name| text(name)))
}

fn stat(stat: &Stat) -> Zval {
    match stat {
        Stat::Int(value) => int(*value),
        Stat::Float(value) => {
            let mut zval = Zval::new();
            zval.set_double(*value);
            zval
        }
        Stat::Flag(value) => boolean(*value),
        Stat::Text(value) => text(value),
        Stat::Tree(tree) => stats(tree),
        Stat::List(entries) => list(entries.iter().map(self::stat)),
        Stat::None => null(),
    }
}

/// Nested arrays of counters.
pub(crate) fn stats(stats: &Stats) -> Zval {
    let mut table = ZendHashTable::new();
    for (key, value) in &stats.0 {
        let value = stat(value);
        // Fails only for keys with a NUL byte.
        let _ = table.insert(key.as_ref(), value);
    }
    let mut zval = Zval::new();
    zval.set_hashtable(table);
    zval
}

macro_rules! returned_as {
    ($(#[$doc:meta])* $name:ident, $type:expr, $nullable:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name(pub(crate) Zval);

        impl IntoZval for $name {
            const TYPE: DataType = $type;
            const NULLABLE: bool = $nullable;

            fn set_zval(self, zv: &mut Zval, _: bool) -> ext_php_rs::error::Result<()> {
                *zv = self.0;
                Ok(())
            }
        }
    };
}

returned_as!(
    /// Returned as `array`.
    ArrayZval, DataType::Array, false
);
returned_as!(
    /// Returned as `string`.
    StringZval, DataType::String, false
);
returned_as!(
    /// Returned as `mixed`.
    MixedZval, DataType::Mixed, false
);
returned_as!(
    /// Returned as `iterable`.
    IterableZval, DataType::Iterable, false
);
returned_as!(
    /// Returned as `?WsSession`.
    SessionZval, DataType::object("WsSession"), true
);
returned_as!(
    /// Returned as `WsDocument`.
    DocumentZval, DataType::object("WsDocument"), false
);
returned_as!(
    /// Returned as `WsReplica`.
    ReplicaZval, DataType::object("WsReplica"), false
);
returned_as!(
    /// Returned as `?WsConnection`.
    ConnectionZval, DataType::object("WsConnection"), true
);
returned_as!(
    /// Returned as `Iterator`.
    IteratorZval, DataType::object("Iterator"), false
);
returned_as!(
    /// Returned as `WsMessage`.
    MessageZval, DataType::object("WsMessage"), false
);
returned_as!(
    /// Returned as `WsRequest`.
    RequestZval, DataType::object("WsRequest"), false
);

/// `$this` of the running method, for fluent calls. The return type is to be patched to `static`.
#[derive(Debug)]
pub(crate) struct This;

impl IntoZval for This {
    const TYPE: DataType = DataType::Mixed;
    const NULLABLE: bool = false;

    fn set_zval(self, zv: &mut Zval, _: bool) -> ext_php_rs::error::Result<()> {
        // SAFETY: the running method's object is alive until the method has returned.
        match unsafe { crate::shim::lifeline_this().as_mut() } {
            Some(object) => zv.set_object(object),
            None => zv.set_null(),
        }
        Ok(())
    }
}
