//! What has a key and is asked for again and again by who knows where it was.

use foldhash::HashMap;

use super::Key;

/// A table by key. An entry stays at its place, where it is found without looking for its key.
#[derive(Clone, Debug)]
pub(super) struct Table<V> {
    places: HashMap<Key, u32>,
    entries: Vec<Option<(Key, V)>>,
    free: Vec<u32>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { places: HashMap::default(), entries: Vec::new(), free: Vec::new() }
    }
}

impl<V> Table<V> {
    pub fn place(&self, key: &Key) -> Option<u32> {
        self.places.get(key).copied()
    }

    pub fn get(&self, key: &Key) -> Option<&V> {
        self.at(self.place(key)?)
    }

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut V> {
        self.at_mut(self.place(key)?)
    }

    /// What is at a place that was asked for just now.
    pub fn at_mut(&mut self, place: u32) -> Option<&mut V> {
        self.entries.get_mut(place as usize)?.as_mut().map(|(_, value)| value)
    }

    /// As [`Table::at_mut`], with its key.
    pub fn entry_mut(&mut self, place: u32) -> Option<(&Key, &mut V)> {
        self.entries.get_mut(place as usize)?.as_mut().map(|(key, value)| (&*key, value))
    }

    fn at(&self, place: u32) -> Option<&V> {
        self.entries.get(place as usize)?.as_ref().map(|(_, value)| value)
    }

    /// As [`Table::get`], of an entry that was at `place`.
    pub fn find(&self, place: u32, key: &Key) -> Option<&V> {
        match self.entries.get(place as usize) {
            Some(Some((found, value))) if found.is(key) => Some(value),
            _ => self.get(key),
        }
    }

    /// As [`Table::get_mut`], of an entry that was at `place`.
    pub fn find_mut(&mut self, place: u32, key: &Key) -> Option<&mut V> {
        let place = self.find_place(place, key)?;
        self.at_mut(place)
    }

    /// As [`Table::place`], of an entry that was at `place`.
    pub fn find_place(&self, place: u32, key: &Key) -> Option<u32> {
        match self.entries.get(place as usize) {
            Some(Some((found, _))) if found.is(key) => Some(place),
            _ => self.place(key),
        }
    }

    pub fn contains_key(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    pub fn insert(&mut self, key: Key, value: V) -> Option<V> {
        if let Some(present) = self.get_mut(&key) {
            return Some(std::mem::replace(present, value));
        }
        let entry = Some((key.clone(), value));
        let place = if let Some(place) = self.free.pop() {
            self.entries[place as usize] = entry;
            place
        } else {
            self.entries.push(entry);
            // More would not fit into any memory.
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        };
        self.places.insert(key, place);
        None
    }

    pub fn remove(&mut self, key: &Key) -> Option<V> {
        let place = self.places.remove(key)?;
        let (_, value) = self.entries.get_mut(place as usize)?.take()?;
        self.free.push(place);
        if self.places.is_empty() {
            *self = Self::default();
        }
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &V)> {
        self.entries.iter().flatten().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_at_its_place_and_by_its_key() {
        let [a, b, c] = ["a", "b", "c"].map(|key| Key::new(key).unwrap());
        let mut table = Table::default();
        assert_eq!((table.insert(a.clone(), 1), table.insert(b.clone(), 2)), (None, None));
        let place = table.place(&a).unwrap();
        assert_eq!((table.find(place, &a), table.find(place, &b), table.find(99, &b)), (Some(&1), Some(&2), Some(&2)));
        // Another text of the same key.
        assert_eq!(table.find_mut(place, &Key::new("a").unwrap()), Some(&mut 1));
        assert_eq!((table.remove(&a), table.remove(&a), table.find(place, &a)), (Some(1), None, None));
        // Its place is another's now.
        table.insert(c.clone(), 3);
        assert_eq!(table.place(&c), Some(place));
        assert_eq!((table.find(place, &a), table.find(place, &c)), (None, Some(&3)));
        assert_eq!(table.find_mut(place, &a), None);
        assert_eq!((table.insert(c.clone(), 4), table.len()), (Some(3), 2));
        assert_eq!(table.iter().map(|(key, value)| (key.as_str(), *value)).collect::<Vec<_>>(), [("c", 4), ("b", 2)]);
        table.remove(&b);
        table.remove(&c);
        assert_eq!((table.len(), table.keys().count(), table.values().count()), (0, 0, 0));
    }
}
