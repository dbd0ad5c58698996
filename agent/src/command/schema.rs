//! `peerwall schema`: JSON schemas of the commands' output and of the policy.

use peerwall_core::policy::schema as policy;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde::Serialize;

use super::DONE;
use super::apply::{Apply, Remove};
use super::boot::Boot;
use super::check::Check;
use super::denied::DeniedPackets;
use super::diff::PolicyDiff;
use super::doctor::Examination;
use super::explain::Explained;
use super::history::HistoryResult;
use super::import::ImportResult;
use super::init::Init;
use super::plan::PlanResult;
use super::status::Status;
use super::test::Tested;
use super::trace::Traced;
use crate::json::{
    Blocked, Confirmed, Failure, RolledBack, SchemaOf, SourceList, TemporaryPeers, Unblocked,
    Versioned,
};
use crate::output::Output;
use peerwall_core::exposed::Exposure;

/// Output of a command: its result or its failure.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Printed<T> {
    /// The command succeeded.
    Result(Versioned<T>),
    /// The command failed.
    Failure(Versioned<Failure>),
}

pub(super) fn run(of: SchemaOf) -> u8 {
    Output::new(true).bare_json(&schema(of));
    DONE
}

fn schema(of: SchemaOf) -> Schema {
    match of {
        SchemaOf::Apply => command::<Apply>("apply"),
        SchemaOf::Block => command::<Blocked>("block"),
        SchemaOf::Boot => command::<Boot>("boot"),
        SchemaOf::Check => command::<Check>("check"),
        SchemaOf::Confirm => command::<Confirmed>("confirm"),
        SchemaOf::Denied => command::<DeniedPackets>("denied"),
        SchemaOf::Diff => command::<PolicyDiff>("diff"),
        SchemaOf::Doctor => command::<Examination>("doctor"),
        SchemaOf::Explain => command::<Explained>("explain"),
        SchemaOf::Exposed => command::<Exposure>("exposed"),
        SchemaOf::History => command::<HistoryResult>("history"),
        SchemaOf::Import => command::<ImportResult<'_>>("import"),
        SchemaOf::Init => command::<Init>("init"),
        SchemaOf::Peer => command::<TemporaryPeers>("peer"),
        SchemaOf::Plan => command::<PlanResult>("plan"),
        SchemaOf::Policy => policy::schema(),
        SchemaOf::Reload => command::<Apply>("reload"),
        SchemaOf::Remove => command::<Remove>("remove"),
        SchemaOf::Rollback => command::<RolledBack>("rollback"),
        SchemaOf::Sources => command::<SourceList>("sources"),
        SchemaOf::Status => command::<Status>("status"),
        SchemaOf::Test => command::<Tested>("test"),
        SchemaOf::Trace => command::<Traced>("trace"),
        SchemaOf::Unblock => command::<Unblocked>("unblock"),
    }
}

/// Returns the schema of a command's `--json` output.
fn command<T: JsonSchema + Serialize>(name: &str) -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<Printed<T>>();
    schema.insert("title".to_owned(), format!("peerwall {name} --json").into());
    schema
}
