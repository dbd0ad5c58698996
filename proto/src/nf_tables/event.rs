//! Messages of the nf_tables multicast group and responses to dumps, which have the same layout.

use super::schema::Attributes;
use super::{Chain, ElementList, Generation, Object, Rule, Set, Table, message_of, msg};
use crate::netlink::attr::DecodeError;
use crate::netlink::message::Message;

/// An object in a dump, or a created or deleted object in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "only one event exists at a time, and the receiver destructures it"
)]
pub enum Event {
    /// A table.
    Table(Change, Table),
    /// A chain.
    Chain(Change, Chain),
    /// A rule.
    Rule(Change, Rule),
    /// A set.
    Set(Change, Set),
    /// Elements of a set.
    Elements(Change, ElementList),
    /// A stateful object.
    Object(Change, Object),
    /// The end of a commit and the process that made it.
    Generation(Generation),
    /// Number of a message that this version does not know.
    Other(u16),
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The object exists in a dump, or it was created or changed.
    New,
    /// The object was deleted.
    Del,
}

/// Decodes a message of the nf_tables subsystem; `None` for other subsystems.
///
/// # Errors
/// [`DecodeError`] if its attributes are malformed.
pub fn decode(message: &Message) -> Result<Option<Event>, DecodeError> {
    use Change::{Del, New};
    let Some(kind) = message_of(message.kind) else {
        return Ok(None);
    };
    let attrs = message.attributes();
    Ok(Some(match kind {
        msg::NFT_MSG_NEWTABLE => Event::Table(New, Table::decode(attrs)?),
        msg::NFT_MSG_DELTABLE => Event::Table(Del, Table::decode(attrs)?),
        msg::NFT_MSG_NEWCHAIN => Event::Chain(New, Chain::decode(attrs)?),
        msg::NFT_MSG_DELCHAIN => Event::Chain(Del, Chain::decode(attrs)?),
        msg::NFT_MSG_NEWRULE => Event::Rule(New, Rule::decode(attrs)?),
        msg::NFT_MSG_DELRULE => Event::Rule(Del, Rule::decode(attrs)?),
        msg::NFT_MSG_NEWSET => Event::Set(New, Set::decode(attrs)?),
        msg::NFT_MSG_DELSET => Event::Set(Del, Set::decode(attrs)?),
        msg::NFT_MSG_NEWSETELEM => Event::Elements(New, ElementList::decode(attrs)?),
        msg::NFT_MSG_DELSETELEM => Event::Elements(Del, ElementList::decode(attrs)?),
        msg::NFT_MSG_NEWOBJ => Event::Object(New, Object::decode(attrs)?),
        msg::NFT_MSG_DELOBJ => Event::Object(Del, Object::decode(attrs)?),
        msg::NFT_MSG_NEWGEN => Event::Generation(Generation::decode(attrs)?),
        other => Event::Other(other),
    }))
}
