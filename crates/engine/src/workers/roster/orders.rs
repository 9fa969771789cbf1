//! What workers ask for.

use bytes::Bytes;
use lifeline_proto::Time;

use super::delivery::open_cost;
use super::{Hands, News, Roster, WorkerId};
use crate::bridge::{
    Command, CommandError, ConnId, Delivery, DeliveryId, MESSAGE_COST, Reply, Sent, Stat, Stats, Verdict,
};

impl Roster {
    pub(super) fn carry_out(
        &mut self,
        now: Time,
        id: WorkerId,
        command: Command,
        hands: &mut impl Hands,
    ) -> Result<Reply, CommandError> {
        match command {
            Command::Consumed { conn, messages, bytes } => {
                self.consumed(id, conn, messages, bytes, hands);
                Ok(Reply::Done)
            }
            Command::Opened { conn } => {
                if let Some(route) = self.routes.get_mut(&conn) {
                    route.opened |= route.worker == Some(id);
                    let cost = open_cost(&route.info);
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.bytes = worker.bytes.saturating_sub(cost);
                    }
                }
                self.pump(id, hands);
                Ok(Reply::Done)
            }
            Command::Ended { conn } => {
                let known = self.routes.get(&conn).is_some_and(|route| {
                    route.worker == Some(id) && route.rare.as_ref().is_some_and(|rare| rare.close.is_some())
                });
                if known && let Some(mut route) = self.routes.remove(&conn) {
                    Self::forget_credit(&mut route, conn, hands);
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.conns.remove(&conn);
                    }
                    self.check_left(now, id, hands);
                }
                Ok(Reply::Done)
            }
            Command::Released { conn } => {
                let asked = self.routes.get(&conn).is_some_and(|route| route.worker == Some(id) && route.leaving);
                if asked {
                    if let Some(route) = self.routes.get_mut(&conn) {
                        Self::forget_credit(route, conn, hands);
                    }
                    self.detach(id, conn);
                    self.assign(conn, hands);
                    self.check_left(now, id, hands);
                }
                Ok(Reply::Done)
            }
            Command::Settle { delivery: Delivery::Item { id: item, .. }, ref verdict, .. } => {
                // An old worker ends with messages that it has not acknowledged: no reason to close the connection.
                if *verdict == Verdict::Failed
                    && let Some(held) = self.items.get_mut(&item).filter(|held| held.worker == Some(id))
                    && self.routes.get(&held.conn).is_some_and(|route| route.worker != Some(id))
                {
                    held.worker = None;
                    let conn = held.conn;
                    self.hand_out_again(conn, hands);
                    return Ok(Reply::Done);
                }
                self.settle(id, item, Some(command), hands);
                Ok(Reply::Done)
            }
            Command::AnswerEdit { delivery: Delivery::Item { id: item, .. }, .. } => {
                self.settle(id, item, Some(command), hands);
                Ok(Reply::Done)
            }
            Command::AnswerAuthorisation { conn, ref channel, .. } => {
                if let Some(rare) = self.routes.get_mut(&conn).and_then(|route| route.rare.as_deref_mut())
                    && let Some(place) = rare.asked.iter().position(|asked| asked == channel)
                {
                    rare.asked.remove(place);
                }
                hands.submit(command)
            }
            Command::AnswerHandshake { ticket, .. }
            | Command::AnswerAuthentication { ticket, .. }
            | Command::AnswerSnapshot { ticket, .. } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.asked = worker.asked.saturating_sub(1);
                }
                let mine = self.questions.get(&ticket).is_some_and(|question| question.worker == Some(id));
                let reply = if mine {
                    self.questions.remove(&ticket);
                    hands.submit(command)
                } else {
                    Ok(Reply::Done)
                };
                self.check_left(now, id, hands);
                reply
            }
            Command::Send { conn, ref data, binary } => {
                // A reference count, for the case that the connection has just ended and its session goes on.
                let later = data.clone();
                match hands.submit(command)? {
                    Reply::Sent(Sent::Closed) => Ok(self.send_later(conn, later, binary, hands)),
                    reply => Ok(reply),
                }
            }
            Command::Bind { conn, ref user } => {
                if let Some(route) = self.routes.get_mut(&conn) {
                    route.info.user = Some((**user).into());
                }
                hands.submit(command)
            }
            Command::OpenDocument { server, channel, bounds, write, watch } => {
                let entry = self.documents.entry(channel.clone()).or_default();
                entry.watchers.retain(|watcher| *watcher != id);
                if watch {
                    entry.watchers.push(id);
                }
                let watch = !entry.watchers.is_empty();
                let reply =
                    hands.submit(Command::OpenDocument { server, channel: channel.clone(), bounds, write, watch });
                self.tell_changes(&channel, hands);
                reply
            }
            Command::TakeChanges { ref channel, .. } => {
                if let Some(watch) = self.documents.get_mut(channel) {
                    watch.news = News::None;
                }
                hands.submit(command)
            }
            Command::Describe { conns } => Ok(self.describe(conns)),
            Command::EndpointStats { endpoint } => {
                let mut reply = hands.submit(Command::EndpointStats { endpoint });
                if let Ok(Reply::Stats(Stats(entries))) = &mut reply
                    && let Some((_, stat)) = entries.iter_mut().find(|(name, _)| name == "workers")
                {
                    *stat = Stat::Tree(self.stats(now));
                }
                reply
            }
            Command::Reload { .. } => self.reload(now, hands).map(|()| Reply::Done),
            // Its own end is told by the socket's, and the server is the gateway's to begin and to forget.
            Command::StartServer(_)
            | Command::StartWorkers { .. }
            | Command::CreateClient(_)
            | Command::Forget { .. }
            | Command::Discard { .. } => Ok(Reply::Done),
            command => hands.submit(command),
        }
    }

    /// What a worker has to know of open connections that others serve.
    pub fn describe(&self, conns: Vec<ConnId>) -> Reply {
        let known = |conn: ConnId| self.routes.get(&conn).map(|route| (conn, route.info.clone()));
        Reply::Described(conns.into_iter().filter_map(known).collect())
    }

    fn send_later(&mut self, conn: ConnId, data: Bytes, binary: bool, hands: &mut impl Hands) -> Reply {
        let session = self.routes.get(&conn).and_then(|route| Some(route.info.session.as_ref()?.id.clone()));
        let sent = session.is_some_and(|session| {
            let command = Command::SessionSend { server: self.settings.server, session, data, binary };
            matches!(hands.submit(command), Ok(Reply::Sequence(1..)))
        });
        Reply::Sent(if sent { Sent::Queued } else { Sent::Closed })
    }

    fn consumed(&mut self, id: WorkerId, conn: ConnId, messages: usize, bytes: usize, hands: &mut impl Hands) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.messages = worker.messages.saturating_sub(messages);
        worker.bytes = worker.bytes.saturating_sub(bytes.saturating_add(messages.saturating_mul(MESSAGE_COST)));
        if let Some(route) = self.routes.get_mut(&conn).filter(|route| route.worker == Some(id)) {
            let messages = messages.min(route.messages);
            let bytes = bytes.min(route.bytes);
            route.messages -= messages;
            route.bytes -= bytes;
            if messages > 0 {
                let _ = hands.submit(Command::Consumed { conn, messages, bytes });
            }
        }
        self.pump(id, hands);
    }

    /// The handling of an item has ended; `command` says how, none: well.
    pub(super) fn settle(&mut self, id: WorkerId, item: DeliveryId, command: Option<Command>, hands: &mut impl Hands) {
        match self.items.get(&item) {
            // Another worker has it now, and says how it ends.
            Some(held) if held.worker != Some(id) => return,
            Some(held) => {
                let rare = self.routes.get_mut(&held.conn).and_then(|route| route.rare.as_deref_mut());
                if let Some(rare) = rare {
                    if rare.items.front().is_some_and(|(_, first)| first.id == item) {
                        rare.items.pop_front();
                    } else {
                        rare.items.retain(|(_, known)| known.id != item);
                        rare.edits.retain(|edit| !matches!(edit.delivery, Delivery::Item { id, .. } if id == item));
                    }
                }
                self.items.remove(&item);
                if !self.poison.is_empty() {
                    self.poison.remove(&item);
                }
            }
            None => return,
        }
        match command {
            Some(command) => drop(hands.submit(command)),
            None => drop(hands.step(Some(item), None)),
        }
    }
}
