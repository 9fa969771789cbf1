//! A server's channels and users: who is where.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::bridge::{CommandError, ConnId};
use crate::config::ServerLimits;
use crate::core::IdMap;
use crate::outlet::Outlet;

type Group = IdMap<ConnId, Arc<Outlet>>;

/// Names to members, both ways: a connection knows its names so that leaving costs what it joined.
///
/// Lock order: a table here, then a connection's membership.
#[derive(Debug, Default)]
pub struct Directory {
    channels: RwLock<HashMap<Arc<str>, Group>>,
    users: RwLock<HashMap<Arc<str>, Group>>,
}

impl Directory {
    /// `Some(name)` when the connection was not a member before.
    ///
    /// # Errors
    /// An invalid name (1 to 255 bytes without control characters), or a limit.
    pub fn subscribe(
        &self,
        outlet: &Arc<Outlet>,
        name: &str,
        limits: &ServerLimits,
    ) -> Result<Option<Arc<str>>, CommandError> {
        check_channel(name)?;
        let mut channels = self.channels.write();
        // Asked under the lock: a connection that has ended must not be left behind.
        if !outlet.is_open() {
            return Ok(None);
        }
        let mut membership = outlet.membership.lock();
        let membership = membership.get_or_insert_default();
        if membership.channels.iter().any(|channel| **channel == *name) {
            return Ok(None);
        }
        if membership.channels.len() >= limits.max_subscriptions {
            return Err(CommandError::Limit(format!(
                "connection {} is in {} channels, limits.maxSubscriptions allows {}",
                outlet.id.0,
                membership.channels.len(),
                limits.max_subscriptions
            )));
        }
        let key = if let Some((key, _)) = channels.get_key_value(name) {
            key.clone()
        } else {
            if channels.len() >= limits.max_channels {
                return Err(CommandError::Limit(format!(
                    "there are {} channels, limits.maxChannels allows {}",
                    channels.len(),
                    limits.max_channels
                )));
            }
            Arc::from(name)
        };
        channels.entry(key.clone()).or_default().insert(outlet.id, outlet.clone());
        membership.channels.push(key.clone());
        Ok(Some(key))
    }

    /// `Some(name)` when the connection was a member.
    pub fn unsubscribe(&self, outlet: &Outlet, name: &str) -> Option<Arc<str>> {
        let mut channels = self.channels.write();
        let mut membership = outlet.membership.lock();
        let list = &mut membership.as_mut()?.channels;
        let index = list.iter().position(|channel| **channel == *name)?;
        let key = list.swap_remove(index);
        remove(&mut channels, &key, outlet.id);
        Some(key)
    }

    /// Gives the connection a user, in place of an earlier one.
    pub fn bind(&self, outlet: &Arc<Outlet>, user: &str) {
        let mut users = self.users.write();
        if !outlet.is_open() {
            return;
        }
        let mut membership = outlet.membership.lock();
        let membership = membership.get_or_insert_default();
        if let Some(old) = membership.user.take() {
            remove(&mut users, &old, outlet.id);
        }
        let key = users.get_key_value(user).map_or_else(|| Arc::from(user), |(key, _)| key.clone());
        users.entry(key.clone()).or_default().insert(outlet.id, outlet.clone());
        membership.user = Some(key);
    }

    /// The connection has closed: out of everything. Returns the channels it was in.
    pub fn remove(&self, outlet: &Outlet) -> Vec<Arc<str>> {
        // Whoever saw the connection open did so under one of these locks and is done after this;
        // whoever comes later sees it closed.
        drop(self.channels.read());
        drop(self.users.read());
        if outlet.membership.lock().is_none() {
            return Vec::new();
        }
        let mut channels = self.channels.write();
        let mut users = self.users.write();
        let Some(membership) = outlet.membership.lock().take() else { return Vec::new() };
        for channel in &membership.channels {
            remove(&mut channels, channel, outlet.id);
        }
        if let Some(user) = &membership.user {
            remove(&mut users, user, outlet.id);
        }
        membership.channels
    }

    pub fn for_each_member(&self, channel: &str, mut visit: impl FnMut(&Arc<Outlet>)) {
        if let Some(group) = self.channels.read().get(channel) {
            group.values().for_each(&mut visit);
        }
    }

    pub fn for_each_of_user(&self, user: &str, mut visit: impl FnMut(&Arc<Outlet>)) {
        if let Some(group) = self.users.read().get(user) {
            group.values().for_each(&mut visit);
        }
    }

    pub fn channels(&self) -> Vec<Arc<str>> {
        self.channels.read().keys().cloned().collect()
    }

    pub fn count_channels(&self) -> usize {
        self.channels.read().len()
    }

    pub fn count_users(&self) -> usize {
        self.users.read().len()
    }
}

fn remove(table: &mut HashMap<Arc<str>, Group>, key: &str, id: ConnId) {
    if let Some(group) = table.get_mut(key) {
        group.remove(&id);
        if group.is_empty() {
            table.remove(key);
        }
    }
}

fn check_channel(name: &str) -> Result<(), CommandError> {
    if name.is_empty() || name.len() > 255 {
        return Err(CommandError::Invalid(format!("a channel's name has 1 to 255 bytes, this one has {}", name.len())));
    }
    if let Some(character) = name.chars().find(|character| character.is_control()) {
        return Err(CommandError::Invalid(format!(
            "a channel's name must not contain control characters, found {}",
            character.escape_unicode()
        )));
    }
    Ok(())
}
