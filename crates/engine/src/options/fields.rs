//! The given options as a flat list of known keys, and how each kind of value is read from it.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{KEYS, Key, OptionError, Role, Value};

/// What was given, by full path. All keys are known and belong to the role.
pub(super) struct Fields<'a> {
    role: Role,
    given: Vec<(&'static str, &'a Value)>,
    /// Which were read: a key of the table that no code reads is a mistake of ours.
    taken: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(role: Role, options: &'a Value) -> Result<Self, OptionError> {
        let mut fields = Self { role, given: Vec::new(), taken: RefCell::default() };
        match options {
            Value::List(list) if list.is_empty() => {}
            Value::Map(entries) => fields.walk("", entries)?,
            Value::List(_) => {
                return Err(OptionError::Value(format!(
                    "{}: the options must be an array of names to values, a list was given",
                    role.class()
                )));
            }
            other => {
                return Err(OptionError::Type(format!(
                    "{}: the options must be of type array, {} given",
                    role.class(),
                    kind(other)
                )));
            }
        }
        Ok(fields)
    }

    fn walk(&mut self, group: &str, entries: &'a [(Vec<u8>, Value)]) -> Result<(), OptionError> {
        for (name, value) in entries {
            let name = String::from_utf8_lossy(name);
            let path = if group.is_empty() { name.into_owned() } else { format!("{group}.{name}") };
            if let Some(key) = KEYS.iter().find(|key| key.path == path && (group.is_empty() || path.contains('.'))) {
                if key.path.contains('.') && group.is_empty() {
                    return Err(self.nest(&path));
                }
                if !key.allows(self.role) {
                    return Err(self.foreign(&path));
                }
                self.given.push((key.path, value));
                continue;
            }
            let members: Vec<&Key> = KEYS.iter().filter(|key| is_within(key.path, &path)).collect();
            if members.is_empty() || !group.is_empty() {
                return Err(self.unknown(&path, value));
            }
            if !members.iter().any(|key| key.allows(self.role)) {
                return Err(self.foreign(&path));
            }
            match value {
                Value::Map(entries) => self.walk(&path, entries)?,
                Value::List(list) if list.is_empty() => {}
                Value::Null if path == "tls" => {}
                Value::List(_) => {
                    return Err(OptionError::Value(format!(
                        "{}: option '{path}' must be an array of names to values ({}), a list was given",
                        self.role.class(),
                        self.names_in(&path)
                    )));
                }
                other => {
                    return Err(OptionError::Type(format!(
                        "{}: option '{path}' must be of type array ({}), {} given",
                        self.role.class(),
                        self.names_in(&path),
                        kind(other)
                    )));
                }
            }
        }
        Ok(())
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// The value given for `key`, if any.
    pub(super) fn take(&self, key: &str) -> Option<&'a Value> {
        if let Some(known) = KEYS.iter().find(|known| known.path == key) {
            self.taken.borrow_mut().push(known.path);
        }
        self.given.iter().find(|(path, _)| *path == key).map(|(_, value)| *value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.given.iter().any(|(path, _)| *path == key)
    }

    /// Every key of the role must have been read by now.
    pub(super) fn finish(&self) {
        debug_assert!(
            KEYS.iter().filter(|key| key.allows(self.role)).all(|key| self.taken.borrow().contains(&key.path)),
            "an option of the table is never read"
        );
    }

    pub(super) fn refuse(&self, key: &str, problem: &str) -> OptionError {
        OptionError::Value(format!("{}: option '{key}' {problem}", self.role.class()))
    }

    pub(super) fn wrong(&self, key: &str, expected: &str, given: &Value) -> OptionError {
        OptionError::Type(format!(
            "{}: option '{key}' must be of type {expected}, {} given",
            self.role.class(),
            kind(given)
        ))
    }

    pub(super) fn duration(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
        into: &mut Duration,
    ) -> Result<(), OptionError> {
        if let Some(value) = self.take(key) {
            *into = self.seconds(key, "int|float (seconds)", range, value)?;
        }
        Ok(())
    }

    pub(super) fn optional_duration(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
        into: &mut Option<Duration>,
    ) -> Result<(), OptionError> {
        match self.take(key) {
            None => {}
            Some(Value::Null) => *into = None,
            Some(value) => *into = Some(self.seconds(key, "int|float (seconds) or null", range, value)?),
        }
        Ok(())
    }

    pub(super) fn seconds(
        &self,
        key: &str,
        expected: &str,
        range: RangeInclusive<f64>,
        value: &Value,
    ) -> Result<Duration, OptionError> {
        let seconds = self.real(key, expected, "seconds", range, value)?;
        Ok(Duration::from_secs_f64(seconds))
    }

    fn real(
        &self,
        key: &str,
        expected: &str,
        unit: &str,
        range: RangeInclusive<f64>,
        value: &Value,
    ) -> Result<f64, OptionError> {
        let number = match value {
            Value::Int(int) => *int as f64,
            Value::Float(float) => *float,
            other => return Err(self.wrong(key, expected, other)),
        };
        // NaN is in no range.
        if !range.contains(&number) {
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            return Err(self.refuse(
                key,
                &format!("must be between {} and {}{unit}, {} given", range.start(), range.end(), shown(value)),
            ));
        }
        Ok(number)
    }

    pub(super) fn number(&self, key: &str, range: RangeInclusive<f64>, into: &mut f64) -> Result<(), OptionError> {
        if let Some(value) = self.take(key) {
            *into = self.real(key, "int|float", "", range, value)?;
        }
        Ok(())
    }

    /// A rate a second, or null for none.
    pub(super) fn rate(&self, key: &str, into: &mut Option<f64>) -> Result<(), OptionError> {
        match self.take(key) {
            None => {}
            Some(Value::Null) => *into = None,
            Some(value) => *into = Some(self.real(key, "int|float or null", "a second", 0.001..=1e15, value)?),
        }
        Ok(())
    }

    pub(super) fn int(
        &self,
        key: &str,
        expected: &str,
        range: &RangeInclusive<i64>,
        value: &Value,
    ) -> Result<i64, OptionError> {
        match value {
            Value::Int(int) if range.contains(int) => Ok(*int),
            Value::Int(int) => {
                Err(self.refuse(key, &format!("must be between {} and {}, {int} given", range.start(), range.end())))
            }
            other => Err(self.wrong(key, expected, other)),
        }
    }

    pub(super) fn optional_int(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, OptionError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.int(key, "int or null", &range, value).map(Some),
        }
    }

    pub(super) fn count(&self, key: &str, range: RangeInclusive<i64>, into: &mut usize) -> Result<(), OptionError> {
        if let Some(value) = self.take(key) {
            *into = usize::try_from(self.int(key, "int", &range, value)?).unwrap_or(usize::MAX);
        }
        Ok(())
    }

    pub(super) fn small(&self, key: &str, range: RangeInclusive<i64>, into: &mut u32) -> Result<(), OptionError> {
        if let Some(value) = self.take(key) {
            *into = u32::try_from(self.int(key, "int", &range, value)?).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    /// A list of ints that replaces the default.
    pub(super) fn numbers(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
        into: &mut Vec<u16>,
    ) -> Result<(), OptionError> {
        let Some(value) = self.take(key) else { return Ok(()) };
        let Value::List(list) = value else { return Err(self.wrong(key, "list of int", value)) };
        let mut numbers = Vec::with_capacity(list.len());
        for item in list {
            let number = u16::try_from(self.int(key, "list of int", &range, item)?).unwrap_or(u16::MAX);
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        *into = numbers;
        Ok(())
    }

    pub(super) fn flag(&self, key: &str, into: &mut bool) -> Result<(), OptionError> {
        match self.take(key) {
            None => {}
            Some(Value::Bool(flag)) => *into = *flag,
            Some(other) => return Err(self.wrong(key, "bool", other)),
        }
        Ok(())
    }

    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)], into: &mut T) -> Result<(), OptionError> {
        if let Some(value) = self.take(key) {
            *into = self.one_of(key, "string", choices, value)?;
        }
        Ok(())
    }

    pub(super) fn optional_choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, OptionError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.one_of(key, "string or null", choices, value).map(Some),
        }
    }

    fn one_of<T: Copy>(
        &self,
        key: &str,
        expected: &str,
        choices: &[(&str, T)],
        value: &Value,
    ) -> Result<T, OptionError> {
        let Value::Text(text) = value else { return Err(self.wrong(key, expected, value)) };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name.as_bytes() == text.as_slice()) {
            return Ok(*choice);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("'{name}'")).collect();
        let hint = nearest(&String::from_utf8_lossy(text), choices.iter().map(|(name, _)| *name))
            .map(|name| format!("; did you mean '{name}'?"))
            .unwrap_or_default();
        Err(self.refuse(key, &format!("must be one of {}, {} given{hint}", names.join(", "), shown_text(text))))
    }

    /// UTF-8 text, or null.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<String>, OptionError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => match String::from_utf8(text.clone()) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.refuse(key, "must be valid UTF-8")),
            },
            Some(other) => Err(self.wrong(key, "string or null", other)),
        }
    }

    /// A list of strings; empty when not given.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<Vec<u8>>, OptionError> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let Value::List(list) = value else { return Err(self.wrong(key, "list of strings", value)) };
        let mut texts = Vec::with_capacity(list.len());
        for item in list {
            let Value::Text(text) = item else { return Err(self.wrong(key, "list of strings", item)) };
            texts.push(text.clone());
        }
        Ok(texts)
    }

    /// The name of a file that can be read now, or null.
    pub(super) fn file(&self, key: &str) -> Result<Option<PathBuf>, OptionError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(path)) => match super::readable(path) {
                Ok(path) => Ok(Some(path)),
                Err(problem) => Err(self.refuse(key, &format!("must name a readable file: {problem}"))),
            },
            Some(other) => Err(self.wrong(key, "string (file name) or null", other)),
        }
    }

    /// The name of a directory, which need not exist, or null.
    pub(super) fn directory(&self, key: &str) -> Result<Option<PathBuf>, OptionError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(path)) if path.is_empty() || path.contains(&0) => {
                Err(self.refuse(key, "must name a directory: it is empty or contains NUL"))
            }
            Some(Value::Text(path)) => {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
                if path.exists() && !path.is_dir() {
                    return Err(self.refuse(key, &format!("must name a directory: '{}' is none", path.display())));
                }
                // Where PHP is now: it may change its directory until the first message.
                Ok(Some(std::path::absolute(&path).unwrap_or(path)))
            }
            Some(other) => Err(self.wrong(key, "string (directory) or null", other)),
        }
    }

    /// One size may not exceed another; the error names the one that the user set.
    pub(super) fn at_most(&self, key: &str, size: usize, bound: &str, limit: usize) -> Result<(), OptionError> {
        if size <= limit {
            return Ok(());
        }
        let default = |key: &str| if self.has(key) { "" } else { ", the default" };
        if self.has(key) || !self.has(bound) {
            let default = default(bound);
            return Err(self.refuse(key, &format!("must not exceed '{bound}' ({limit}{default}), {size} given")));
        }
        let default = default(key);
        Err(self.refuse(bound, &format!("must be at least '{key}' ({size}{default}), {limit} given")))
    }

    fn nest(&self, path: &str) -> OptionError {
        let (group, name) = path.split_once('.').unwrap_or((path, ""));
        OptionError::Value(format!(
            "{}: option '{path}' must be nested: ['{group}' => ['{name}' => …]]",
            self.role.class()
        ))
    }

    fn foreign(&self, path: &str) -> OptionError {
        let owner = if self.role == Role::Server { Role::Client } else { Role::Server };
        OptionError::Value(format!(
            "{}: '{path}' is an option of {}, not of {}",
            self.role.class(),
            owner.class(),
            self.role.class()
        ))
    }

    /// The value is not repeated: it may be a password under a name that is spelt wrongly.
    fn unknown(&self, path: &str, given: &Value) -> OptionError {
        let known = || KEYS.iter().filter(|key| key.allows(self.role)).map(|key| key.path);
        let groups = known().filter_map(|path| path.split_once('.').map(|(group, _)| group));
        let hint = nearest(path, known().chain(groups)).or_else(|| by_last_part(path, known()));
        let hint = hint.map_or(".".to_owned(), |path| format!("; did you mean '{path}'?"));
        let group = path.split_once('.').map_or("", |(group, _)| group);
        let place = if group.is_empty() { String::new() } else { format!(" of '{group}'") };
        let path = shown_text(path.as_bytes());
        OptionError::Value(format!(
            "{}: unknown option {path} ({} given){hint} Allowed options{place}: {}",
            self.role.class(),
            shown_unless_text(given),
            self.names_in(group)
        ))
    }

    /// A name that the array of an option does not have.
    pub(super) fn unknown_in(&self, key: &str, name: &str, given: &Value, known: &[&str]) -> OptionError {
        let hint = nearest(name, known.iter().copied()).or_else(|| by_last_part(name, known.iter().copied()));
        let hint = hint.map_or(".".to_owned(), |name| format!("; did you mean '{key}.{name}'?"));
        OptionError::Value(format!(
            "{}: unknown option {} ({} given){hint} Allowed options of '{key}': {}",
            self.role.class(),
            shown_text(format!("{key}.{name}").as_bytes()),
            shown_unless_text(given),
            known.join(", ")
        ))
    }

    /// The names in a group (or at the top, groups by their name), for an error.
    fn names_in(&self, group: &str) -> String {
        let mut names: Vec<&str> = Vec::new();
        for key in KEYS.iter().filter(|key| key.allows(self.role)) {
            let name = if group.is_empty() {
                key.path.split('.').next()
            } else if is_within(key.path, group) {
                key.path.get(group.len() + 1..)
            } else {
                None
            };
            if let Some(name) = name.filter(|name| !names.contains(name)) {
                names.push(name);
            }
        }
        names.join(", ")
    }
}

fn is_within(path: &str, group: &str) -> bool {
    path.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'))
}

/// `max_message` and `MaxMessage` are `maxMessage` spelt otherwise.
fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

fn by_last_part<'k>(path: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let last = |path: &str| folded(path.rsplit('.').next().unwrap_or(path));
    let wanted = last(path);
    let candidates: Vec<_> = known.collect();
    candidates.iter().find(|path| last(path) == wanted).copied()
}

/// The candidate with the fewest edits, when they are few.
fn nearest<'k>(given: &str, candidates: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let given = folded(given);
    let bound = match given.chars().count() {
        0..=3 => 1,
        4..=11 => 2,
        longer => longer / 4,
    };
    candidates
        .map(|candidate| (distance(&given, &folded(candidate)), candidate))
        .filter(|(edits, _)| *edits <= bound)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance. Input longer than any key is cut: it is near to none.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, right) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, left) in a.iter().enumerate() {
            let change = diagonal + usize::from(*left != right);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[a.len()]
}

/// The type as the application's users call it.
pub(super) fn kind(value: &Value) -> &str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float",
        Value::Text(_) => "string",
        Value::List(_) | Value::Map(_) => "array",
        Value::Other(name) => name,
    }
}

/// As [`shown`], but no text.
fn shown_unless_text(value: &Value) -> String {
    if matches!(value, Value::Text(_)) { kind(value).to_owned() } else { shown(value) }
}

/// A short value as it was written; a long or secret-prone one by its type.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => float.to_string(),
        Value::Text(text) => shown_text(text),
        other => kind(other).to_owned(),
    }
}

/// Quoted, escaped and cut, without what may be a password in a URL.
pub(super) fn shown_text(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let start = text.find("://").map_or(0, |at| at + 3);
    let text = match text[start..].rfind('@').map(|at| start + at) {
        Some(at) if text[..at].contains(':') => format!("{}…{}", &text[..start], &text[at..]).into(),
        _ => text,
    };
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().count() > 80 {
        shown.push('…');
    }
    format!("'{}'", shown.replace("\\'", "'").replace("\\\"", "\""))
}
