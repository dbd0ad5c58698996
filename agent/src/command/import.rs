//! `peerwall import`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use peerwall_core::diagnostic::{Code, Diagnostic, Place, Sources};
use peerwall_core::import::canonical::Readings;
use peerwall_core::import::{self, Facts, File, Import, ImportError, Options, nft};
use peerwall_core::net::addr::Family;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, TROUBLE, trouble};
use crate::cli::ImportArgs;
use crate::host::facts;
use crate::import::{iptables as reader, live, nft as loader};
use crate::json::{ErrorCode, Failure};
use crate::output::{Output, complain};
use crate::progress::Progress;
use crate::secure_file::{TEXT_MAX_BYTES, plain};

/// The result of `import`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Import")]
pub(super) struct ImportResult<'i> {
    /// Whether every line was converted or needs no conversion.
    is_complete: bool,
    /// Who read the rules of iptables in the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_by: Option<&'i str>,
    /// The policy and the report.
    #[serde(flatten)]
    import: &'i Import,
}

pub(super) fn run(args: &ImportArgs, output: &Output) -> u8 {
    let progress = Progress::start("importing rules");
    let files = match args.live {
        true => live::files().map_err(InputError::from),
        false => read(args),
    };
    let files = match files {
        Ok(files) => files,
        Err(err) => {
            drop(progress);
            return trouble("import", err, output);
        }
    };
    if files.is_empty() {
        let why = "iptables and nftables have no rules here";
        return trouble(
            "import",
            Failure::new(ErrorCode::InputUnreadable, why),
            output,
        );
    }
    // Files of another host contain no facts of this one.
    let facts = match args.live || facts::is_node() {
        true => facts::gather(),
        false => Facts::default(),
    };
    let options = Options {
        assume_accept: args.assume_accept,
    };
    // iptables-save printed the live rules.
    let read_back = match args.live {
        true => None,
        false => reader::read(&files),
    };
    let (readings, by) = read_back.map(|read| (read.readings, read.by)).unzip();
    let mut readings: Readings = readings.unwrap_or_default();
    readings.is_live = args.live;
    let imported = import::import_read(&files, &facts, options, &readings);
    drop(progress);
    match imported {
        Ok(import) => print(&import, by.as_deref(), args.strict, output),
        Err(errors) => {
            let text: String = errors.iter().map(|err| format!("error: {err}\n")).collect();
            output.failure(&failure(&errors, &files), &text);
            TROUBLE
        }
    }
}

/// Errors of the files as diagnostics, each about a whole line.
fn failure(errors: &[ImportError], files: &[File]) -> Failure {
    let mut sources = Sources::default();
    let files: Vec<_> = files
        .iter()
        .map(|file| {
            (
                &file.name,
                &file.text,
                sources.add(&file.name, file.text.as_str()),
            )
        })
        .collect();
    let diagnostic = |err: &ImportError| {
        let (_, text, file) = *files.iter().find(|(name, ..)| **name == err.file)?;
        let lines = text.split_inclusive('\n');
        let start: usize = lines
            .clone()
            .take(err.line.saturating_sub(1))
            .map(str::len)
            .sum();
        let line = lines.map(str::trim_end).nth(err.line.saturating_sub(1));
        let length = line.filter(|_| err.line > 0).map_or(0, str::len);
        let span = start..start + length;
        let place = Place { file, span };
        let diagnostic = Diagnostic::error(Code::InvalidInput, place, &err.why);
        Some(diagnostic.help(&err.help))
    };
    let found: Vec<_> = errors.iter().filter_map(diagnostic).collect();
    Failure {
        diagnostics: found.iter().map(|each| sources.json(each)).collect(),
        ..Failure::new(ErrorCode::InputInvalid, "the files have errors")
    }
}

fn read(args: &ImportArgs) -> Result<Vec<File>, InputError> {
    let known = |family| move |path: &PathBuf| (path.clone(), Some(family));
    let named = args.files.iter().map(|path| (path.clone(), None));
    let v4 = args.v4.iter().map(known(Family::V4));
    let v6 = args.v6.iter().map(known(Family::V6));
    named
        .chain(v4)
        .chain(v6)
        .map(|(path, family)| {
            let (name, text) = match path == Path::new("-") {
                true => ("standard input".to_owned(), stdin()?),
                false => (path.display().to_string(), text(&path)?),
            };
            loaded(File { name, text, family })
        })
        .collect::<Result<Vec<_>, _>>()
        .map(|files| files.into_iter().flatten().collect())
}

/// Lets nft load a file that only nft can read, or those that a configuration contains.
fn loaded(file: File) -> Result<Vec<File>, InputError> {
    let files = match import::with_nft(&file) {
        Ok(Some(inside)) => inside,
        // The import finds the errors.
        Ok(None) | Err(_) => vec![file],
    };
    let load = |file: File| {
        let text = match nft::is_script(&file.text) {
            true => loader::listing(&file.name, &file.text)?,
            false => file.text,
        };
        Ok(File { text, ..file })
    };
    files.into_iter().map(load).collect()
}

/// Error of unreadable input.
#[derive(Debug, thiserror::Error)]
enum InputError {
    /// A file, or standard input.
    #[error("cannot read {what}: {}", plain(.source))]
    Unreadable {
        what: String,
        source: std::io::Error,
    },
    /// The live rules.
    #[error(transparent)]
    Live(#[from] live::LiveError),
    /// A file for nft.
    #[error(transparent)]
    Nft(#[from] loader::NftError),
}

impl From<InputError> for Failure {
    fn from(err: InputError) -> Self {
        let code = match err {
            InputError::Unreadable { .. } => ErrorCode::InputUnreadable,
            InputError::Nft(loader::NftError::Rejected { .. }) => ErrorCode::InputInvalid,
            InputError::Live(_) | InputError::Nft(_) => ErrorCode::BackendUnavailable,
        };
        Self::new(code, err)
    }
}

fn stdin() -> Result<String, InputError> {
    all(std::io::stdin().lock()).map_err(|source| InputError::Unreadable {
        what: "standard input".into(),
        source,
    })
}

/// Reads a file, or a pipe: `peerwall import <(iptables-save)`.
fn text(path: &Path) -> Result<String, InputError> {
    let text = std::fs::File::open(path).and_then(all);
    text.map_err(|source| InputError::Unreadable {
        what: path.display().to_string(),
        source,
    })
}

/// Reads a text. Comments may be in another encoding than UTF-8.
fn all(from: impl std::io::Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(TEXT_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match bytes.len() as u64 > TEXT_MAX_BYTES {
        true => Err(std::io::Error::other(format!(
            "it is larger than {} MiB",
            TEXT_MAX_BYTES >> 20
        ))),
        false => Ok(text),
    }
}

fn print(import: &Import, by: Option<&str>, strict: bool, output: &Output) -> u8 {
    let refused = strict && (!import.is_whole() || import.opens_more());
    if output.is_json() {
        output.json(&ImportResult {
            is_complete: import.is_whole(),
            read_by: by,
            import,
        });
    } else {
        if let Some(by) = by {
            complain(&format!("{by}\n\n"));
        }
        complain(&import.to_string());
        if refused {
            complain(match import.is_whole() {
                true => "\nerror: the policy accepts more than the rules; see \"new\"\n",
                false => {
                    "\nerror: not every line was converted; see \"not converted\" and \
                     \"partly converted\"\n"
                }
            });
        } else {
            output.text(&import.policy);
        }
    }
    if refused { DIFFERS } else { DONE }
}
