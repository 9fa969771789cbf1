//! `--key value` arguments, checked.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// Arguments of one sub-command. Each key may be taken once; [`Args::finish`] refuses what is left.
#[derive(Debug)]
pub struct Args {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Args {
    /// Splits `--key value`, `--key=value` and lone `--flag`s.
    ///
    /// # Errors
    /// A word that belongs to no key, or a key given twice.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut given = BTreeMap::new();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let Some(key) = word.strip_prefix("--") else { bail!("unexpected argument '{word}'") };
            let (key, value) = match key.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (key.to_owned(), words.next_if(|next| !next.starts_with("--")).unwrap_or_default()),
            };
            if given.insert(key.clone(), value).is_some() {
                bail!("--{key} is given twice");
            }
        }
        Ok(Self { given, known: Vec::new() })
    }

    /// True when `key` was given; does not take it.
    pub fn has(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// True when the flag was given.
    pub fn flag(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.given.remove(key).is_some()
    }

    /// The value of `key`, or `default`.
    ///
    /// # Errors
    /// The value is not a `T`.
    pub fn or<T: FromStr>(&mut self, key: &'static str, default: T) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.known.push(key);
        match self.given.remove(key) {
            Some(value) => value.parse().with_context(|| format!("--{key} {value}")),
            None => Ok(default),
        }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// It is missing, or not a `T`.
    pub fn required<T: FromStr>(&mut self, key: &'static str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.known.push(key);
        let value = self.given.remove(key).with_context(|| format!("--{key} is missing"))?;
        value.parse().with_context(|| format!("--{key} {value}"))
    }

    /// Call when every key has been asked for.
    ///
    /// # Errors
    /// A key is left that nobody asked for.
    pub fn finish(self) -> Result<()> {
        match self.given.keys().next() {
            None => Ok(()),
            Some(key) => {
                let known = self.known.iter().map(|key| format!("--{key}")).collect::<Vec<_>>().join(", ");
                bail!("unknown argument --{key}; known are {known}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_values_flags_and_defaults() {
        let mut args = args("--conns 5 --json --size=7").unwrap();
        assert_eq!(args.required::<u32>("conns").unwrap(), 5);
        assert_eq!(args.or("size", 1_u32).unwrap(), 7);
        assert_eq!(args.or("window", 3_u32).unwrap(), 3);
        assert!(args.flag("json"));
        args.finish().unwrap();
    }

    #[test]
    fn names_what_is_wrong() {
        assert!(args("stray").unwrap_err().to_string().contains("stray"));
        assert!(args("--a 1 --a 2").unwrap_err().to_string().contains("--a is given twice"));
        let mut given = args("--conns many --typo 1").unwrap();
        assert!(given.required::<u32>("conns").unwrap_err().to_string().contains("--conns many"));
        assert!(given.finish().unwrap_err().to_string().contains("--typo"));
    }
}
