//! Reads all tables of nf_tables, of any program, with their rules and elements.

use peerwall_core::nft::machine::KernelTables;
use peerwall_proto::nf_tables::{self as nft, ElementList, msg};

use crate::enforce::foreign::list;
use crate::enforce::nft::answer::is_missing;
use crate::kernel::netlink::{NetlinkError, Socket};

/// Reads all tables of this network namespace; none if the kernel has no nf_tables.
///
/// # Errors
/// [`NetlinkError`] if the kernel refuses a dump.
pub fn read() -> Result<KernelTables, NetlinkError> {
    let mut socket = Socket::open()?;
    let mut found = KernelTables::default();
    match list(
        &mut socket,
        msg::NFT_MSG_GETTABLE,
        0,
        &nft::Table::default(),
    ) {
        Err(err) if is_missing(&err) => return Ok(found),
        tables => add(&mut found, tables?),
    }
    add(
        &mut found,
        list(
            &mut socket,
            msg::NFT_MSG_GETCHAIN,
            0,
            &nft::Chain::default(),
        )?,
    );
    add(
        &mut found,
        list(&mut socket, msg::NFT_MSG_GETRULE, 0, &nft::Rule::default())?,
    );
    add(
        &mut found,
        list(&mut socket, msg::NFT_MSG_GETSET, 0, &nft::Set::default())?,
    );
    for (family, table, set) in found.set_names() {
        let wanted = ElementList {
            table: Some(table.clone()),
            set: Some(set.clone()),
            ..ElementList::default()
        };
        // A set that was deleted meanwhile stays unread.
        match list(&mut socket, msg::NFT_MSG_GETSETELEM, family, &wanted) {
            Ok(elements) => {
                add(&mut found, elements);
                found.complete_set(family, &table, &set);
            }
            Err(err) => log::debug!("set {set} of table {table} is not read: {err}"),
        }
    }
    Ok(found)
}

fn add(tables: &mut KernelTables, objects: Vec<(u8, nft::event::Event)>) {
    for (family, object) in objects {
        tables.add(family, object);
    }
}
