//! Reads rules of iptables: iptables-restore loads them in a private network namespace, and
//! iptables-save prints them.
//!
//! iptables resolves abbreviations, names and old spellings as it does on the host. Lines that it
//! cannot load here, for example without a kernel module, are left to peerwall.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::time::{Duration, Instant};

use peerwall_core::import::File;
use peerwall_core::import::canonical::{self, Reading, Readings, RuleId, RuleLine, RuleTable};
use peerwall_core::net::addr::Family;
use peerwall_core::words;
use peerwall_proto::iptables as format;

use super::refusal::Refusal;
use super::shapes::Shapes;
use super::{lines, private};
use crate::enforce::iptables::tools;

/// Time limit for all attempts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time limit for finding the lines that iptables rejects.
const SEARCH: Duration = Duration::from_secs(12);
/// Number of lines that are checked together.
const CHECKED_LINES: usize = 500;
/// Smaller tables declare every chain; iptables takes long for many.
const CHAINS_MANY: usize = 1000;
/// Exit code of the script without iptables.
const MISSING: i32 = 41;

/// Loads or checks standard input, and prints the version and the table. Sets are empty ones: a
/// rule has the same words with every set. The lock of xtables is for the host's rules.
const SCRIPT: &str = r#"
six=$1 table=$2 mode=$3 folder=$4
shift 4
[ -z "$folder" ] || PATH=$folder
for name in "ip${six}tables" "ip${six}tables-nft" "ip${six}tables-legacy" ""; do
  [ -n "$name" ] || exit 41
  command -v "$name-restore" >/dev/null && command -v "$name-save" >/dev/null && break
done
if [ $# -gt 0 ]; then
  for set; do echo "create $set hash:ip family inet$six -exist"; done | ipset restore >/dev/null 2>&1
fi
export XTABLES_LOCKFILE=/dev/null
if [ "$mode" = check ]; then
  exec "$name-restore" --test
fi
"$name-restore" --version </dev/null || exit 1
"$name-restore" && "$name-save" -t "$table" </dev/null
"#;

/// What iptables made of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// Its readings.
    pub readings: Readings,
    /// Who read the files, for the report.
    pub by: String,
}

/// Lets iptables read the rules of the files; `None` if they have none.
pub fn read(files: &[File]) -> Option<ReadBack> {
    let tables = canonical::tables(files);
    let count: usize = tables.iter().map(|table| table.lines.len()).sum();
    if count == 0 {
        return None;
    }
    let mut reader = Reader::new();
    for table in &tables {
        if let Err(why) = reader.table(&Batch::new(table)) {
            reader.why_not.get_or_insert(why.to_string());
        }
    }
    let by = reader.by(count);
    let readings = reader.readings;
    Some(ReadBack { readings, by })
}

/// Reason why iptables reads nothing, or nothing more.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("iptables-restore is not installed")]
    Missing,
    #[error("iptables-restore did not end within {} s", PATIENCE.as_secs())]
    Late,
    #[error("cannot run iptables-restore in a private network namespace: {0}")]
    NotRun(io::Error),
    #[error("iptables-restore cannot load rules here: {0}")]
    Unusable(String),
}

/// The lines of a table that iptables may load.
struct Batch<'t> {
    family: Family,
    table: &'t str,
    /// Chains that can be declared.
    chains: Vec<&'t str>,
    lines: Vec<&'t RuleLine>,
    sets: Vec<String>,
    /// Beginning of the comments that identify the lines. No rule contains it.
    marker: String,
}

impl<'t> Batch<'t> {
    fn new(table: &'t RuleTable) -> Self {
        let mut marker = "peerwall-line-".to_owned();
        let words = || table.lines.iter().flat_map(|line| &line.words);
        while words().any(|word| word.contains(&marker)) {
            marker.insert(0, 'x');
        }
        let chains = table.chains.iter().map(String::as_str);
        let chains = chains.filter(|chain| lines::is_chain(&table.name, chain));
        let may_load = |line: &&RuleLine| lines::may_load(&table.name, line);
        Self {
            family: table.family,
            table: &table.name,
            chains: chains.collect(),
            lines: table.lines.iter().filter(may_load).collect(),
            sets: lines::sets(&table.lines),
            marker,
        }
    }

    /// Returns the name of the table, and declarations of the chains that lines name.
    fn head(&self, lines: &[&RuleLine]) -> String {
        let words = lines.iter().flat_map(|line| &line.words);
        let named = words.chain(lines.iter().map(|line| &line.chain));
        let named: HashSet<&str> = named.map(String::as_str).collect();
        let mut head = format!("*{}\n", self.table);
        let is_small = self.chains.len() < CHAINS_MANY;
        for chain in &self.chains {
            let policy = match format::BUILTIN.contains(chain) {
                true => "ACCEPT",
                false if is_small || named.contains(chain) => "-",
                false => continue,
            };
            head.push_str(&format!(":{chain} {policy}\n"));
        }
        head
    }

    /// Returns input of iptables-restore, and the number of its lines before the first rule.
    fn input(&self, lines: &[&RuleLine]) -> (String, usize) {
        let mut text = self.head(lines);
        let head = text.lines().count();
        for (index, line) in lines.iter().enumerate() {
            let comment = format!("{}{index}", self.marker);
            let marker = ["-m", "comment", "--comment", &comment];
            let words = line.words.iter().cloned();
            let rule = format::Rule {
                chain: line.chain.clone(),
                position: format::Position::Append,
                counters: None,
                words: words.chain(marker.map(str::to_owned)).collect(),
                line: 0,
            };
            text.push_str(&format!("{rule}\n"));
        }
        (text + "COMMIT\n", head)
    }

    /// Returns the words of each line in the output of iptables-save.
    fn saved(&self, output: &str, lines: &[&RuleLine]) -> BTreeMap<RuleId, Vec<Vec<String>>> {
        let mut found: BTreeMap<RuleId, Vec<Vec<String>>> = BTreeMap::new();
        let tables = format::read(output).save.tables;
        for mut rule in tables.into_iter().flat_map(|table| table.rules) {
            let number = |word: &String| word.strip_prefix(&self.marker)?.parse::<usize>().ok();
            let Some(at) = rule.words.iter().rposition(|word| number(word).is_some()) else {
                continue;
            };
            let line = number(&rule.words[at]).and_then(|number| lines.get(number));
            // `-m comment --comment MARKER`
            if let Some(line) = line.filter(|_| at >= 3) {
                rule.words.drain(at - 3..=at);
                found.entry(line.id).or_default().push(rule.words);
            }
        }
        found
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Check,
    Load,
}

/// Result of one run.
type Attempt = Result<(), Refusal>;

struct Reader {
    start: Instant,
    readings: Readings,
    /// Lines that iptables read, also if it ignored them for their family.
    read: BTreeSet<RuleId>,
    /// Number of lines that differ from lines it read only in values.
    alike: usize,
    version: Option<String>,
    why_not: Option<String>,
}

impl Reader {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            readings: Readings::default(),
            read: BTreeSet::new(),
            alike: 0,
            version: None,
            why_not: None,
        }
    }

    /// Reads a table: of many lines of one shape only some, if iptables prints them as they are.
    fn table(&mut self, batch: &Batch<'_>) -> Result<(), Stop> {
        let shapes = Shapes::new(batch.table, &batch.lines);
        self.lines(batch, shapes.samples.clone())?;
        let (alike, rest) = shapes.others(|line| self.is_printed_alike(line));
        self.alike += alike.len();
        self.lines(batch, rest)
    }

    /// Reports whether iptables prints the words of a line as they are.
    fn is_printed_alike(&self, line: &RuleLine) -> bool {
        match self.readings.get(line.id) {
            Some(Reading::Words(printed)) => printed[..] == [line.words.clone()],
            Some(Reading::Refused(_)) | None => false,
        }
    }

    /// Reads lines, without those that iptables cannot load.
    fn lines(&mut self, batch: &Batch<'_>, mut good: Vec<&RuleLine>) -> Result<(), Stop> {
        if good.is_empty() {
            return Ok(());
        }
        let mut last = self.attempt(batch, &good, Mode::Load)?;
        if last.as_ref().is_err_and(|refusal| refusal.is_syntax) {
            good = self.without_rejected(batch, &good)?;
            last = self.attempt(batch, &good, Mode::Load)?;
        }
        while let Err(refusal) = last {
            let mut bad = refusal.lines;
            if bad.is_empty() {
                match self.first_bad(batch, &good)? {
                    Some(at) => bad.push(at),
                    None => return Err(Stop::Unusable(refusal.said)),
                }
            }
            let mut index = 0..;
            good.retain(|_| index.next().is_none_or(|at| !bad.contains(&at)));
            last = self.attempt(batch, &good, Mode::Load)?;
        }
        Ok(())
    }

    /// Returns the lines whose words iptables accepts. It stops at the first line that it rejects.
    fn without_rejected<'t>(
        &mut self,
        batch: &Batch<'_>,
        lines: &[&'t RuleLine],
    ) -> Result<Vec<&'t RuleLine>, Stop> {
        let mut good = Vec::new();
        let mut rest = lines;
        while self.start.elapsed() < SEARCH {
            let (part, later) = rest.split_at(rest.len().min(CHECKED_LINES));
            if part.is_empty() {
                break;
            }
            let Err(refusal) = self.attempt(batch, part, Mode::Check)? else {
                good.extend(part);
                rest = later;
                continue;
            };
            let Some((at, line)) = refusal
                .lines
                .first()
                .and_then(|at| Some((*at, rest.get(*at)?)))
            else {
                return Err(Stop::Unusable(refusal.said));
            };
            if refusal.is_usage {
                self.read.insert(line.id);
                self.readings
                    .insert(line.id, Reading::Refused(refusal.said));
            }
            good.extend(&rest[..at]);
            rest = &rest[at + 1..];
        }
        Ok(good)
    }

    /// Returns the first line whose table cannot be loaded; `None` if not even the chains can.
    fn first_bad(&mut self, batch: &Batch<'_>, lines: &[&RuleLine]) -> Result<Option<usize>, Stop> {
        if self.attempt(batch, &[], Mode::Load)?.is_err() {
            return Ok(None);
        }
        // `loads` lines can be loaded, `fails` cannot.
        let (mut loads, mut fails) = (0, lines.len());
        while fails - loads > 1 {
            let middle = loads + (fails - loads) / 2;
            match self.attempt(batch, &lines[..middle], Mode::Load)? {
                Ok(()) => loads = middle,
                Err(_) => fails = middle,
            }
        }
        Ok(fails.checked_sub(1))
    }

    /// Runs iptables once, and records what it reads.
    fn attempt(
        &mut self,
        batch: &Batch<'_>,
        lines: &[&RuleLine],
        mode: Mode,
    ) -> Result<Attempt, Stop> {
        let left = PATIENCE.saturating_sub(self.start.elapsed());
        if left.is_zero() {
            return Err(Stop::Late);
        }
        let six = if batch.family == Family::V6 { "6" } else { "" };
        let mode_name = if mode == Mode::Check { "check" } else { "load" };
        let folder = tools::asked().map(|folder| folder.display().to_string());
        let mut args = vec![six.to_owned(), batch.table.to_owned(), mode_name.to_owned()];
        args.push(folder.unwrap_or_default());
        args.extend(batch.sets.iter().cloned());
        let (input, head) = batch.input(lines);
        let output = private::run_within(left, SCRIPT, &args, &input);
        let output = output.map_err(|err| {
            let is_late = err.kind() == io::ErrorKind::TimedOut;
            if is_late {
                Stop::Late
            } else {
                Stop::NotRun(err)
            }
        })?;
        if output.status.code() == Some(MISSING) {
            return Err(Stop::Missing);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let (version, saved) = text.split_once('\n').unwrap_or_default();
        self.version
            .get_or_insert_with(|| version.trim().to_owned());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Ok(Err(Refusal::new(&said, head + 1, lines.len())));
        }
        if mode == Mode::Load {
            self.read.extend(lines.iter().map(|line| line.id));
            for (id, words) in batch.saved(saved, lines) {
                self.readings.insert(id, Reading::Words(words));
            }
        }
        Ok(Ok(()))
    }

    /// Returns who read the lines, for the report.
    fn by(&self, count: usize) -> String {
        let others = count - (self.read.len() + self.alike).min(count);
        let why = self.why_not.as_deref().unwrap_or_default();
        let Some(version) = self.version.as_ref().filter(|_| others < count) else {
            return format!("read by peerwall: {why}");
        };
        let mut by = format!("read by {version}");
        if self.alike > 0 {
            let (some, all) = (self.read.len(), self.read.len() + self.alike);
            by.push_str(&format!(
                ", {} for {all} that differ only in addresses, ports and names",
                words::count(some, "line")
            ));
        }
        if others > 0 {
            let lines = words::count(others, "line");
            by.push_str(&format!("; {lines} that it cannot load here by peerwall"));
        }
        by
    }
}
