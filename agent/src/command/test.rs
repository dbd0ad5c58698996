//! `peerwall test`, and `apply --verify`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use peerwall_core::diagnostic::{Code, Diagnostic, JsonDiagnostic, Sources};
use peerwall_core::policy::BackendChoice;
use peerwall_core::policy::load::{Elsewhere, Files, Text};
use peerwall_core::ruleset::Ruleset;
use peerwall_core::testing::report::{
    PolicyTests, TestOutcome, TestResult, github, junit, sarif, text,
};
use peerwall_core::testing::{Case, Fate, cases, judged, parse};
use peerwall_core::words::count;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, TROUBLE, check, policy_path, trouble};
use crate::cli::{TestArgs, TestFormat};
use crate::color::{self, Stream};
use crate::json::{ErrorCode, Failure};
use crate::output::{Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadError, LoadedPolicy, prepare_to_test};
use crate::secure_file;
use crate::system::namespace;
use crate::testing::{self, LabError};

/// Why there is no verification with iptables.
pub(super) const ONLY_NFT: &str =
    "--verify kernel tests the rules of nf_tables: leave it out with the iptables backend";

/// Whether all tests passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TestsOutcome {
    /// No test failed.
    Passed,
    /// A test failed.
    Failed,
    /// A policy, or a list of packets, has errors, or the kernel could not be asked.
    Error,
}

/// The result of `test`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Test")]
pub(super) struct Tested {
    /// Outcome of all tests.
    outcome: TestsOutcome,
    /// The kernel that judged packets, with its release; absent if only the evaluator did.
    kernel: Option<String>,
    /// Why no kernel was asked, as a sentence; absent if one was.
    no_kernel: Option<String>,
    /// Results of each policy.
    policies: Vec<PolicyTests>,
}

impl Tested {
    fn new(policies: Vec<PolicyTests>, asked: Asked) -> Self {
        let (kernel, no_kernel) = match asked {
            Asked::Kernel(name) => (Some(name), None),
            Asked::Nobody(why) => (None, Some(why)),
        };
        let is_bad = |policy: &PolicyTests| {
            policy.count(TestOutcome::Failed) + policy.count(TestOutcome::Disagreed) > 0
        };
        let is_wrong = policies.iter().any(|policy| policy.error.is_some());
        Self {
            outcome: match (is_wrong, policies.iter().any(is_bad)) {
                (true, _) => TestsOutcome::Error,
                (false, true) => TestsOutcome::Failed,
                (false, false) => TestsOutcome::Passed,
            },
            kernel,
            no_kernel,
            policies,
        }
    }

    fn text(&self) -> String {
        text(&self.policies, self.kernel.as_deref())
    }

    fn code(&self) -> u8 {
        match self.outcome {
            TestsOutcome::Passed => DONE,
            TestsOutcome::Failed => DIFFERS,
            TestsOutcome::Error => TROUBLE,
        }
    }
}

/// Who judges packets besides the evaluator.
enum Asked {
    /// This kernel, by its name.
    Kernel(String),
    /// Nobody, for a reason.
    Nobody(String),
}

/// Tests of one file.
struct Group {
    sources: Sources,
    cases: Vec<Case>,
}

/// A policy with its tests.
struct Loaded {
    ready: LoadedPolicy,
    /// Those of the policy, and those of each list.
    groups: Vec<Group>,
}

/// A policy that was read, with its tests or its errors.
struct Read {
    path: PathBuf,
    loaded: Option<Loaded>,
    /// Why there are no tests, as a sentence.
    error: Option<String>,
    diagnostics: Vec<JsonDiagnostic>,
    /// Errors and warnings with excerpts, for people.
    excerpts: String,
}

impl Read {
    fn new(path: PathBuf, lists: &[Text], files: &dyn Files) -> Self {
        match prepare_to_test(&path, files) {
            Ok(ready) => Self::of_policy(path, ready, lists),
            Err(why) => Self::of_error(path, &why),
        }
    }

    fn of_error(path: PathBuf, why: &LoadError) -> Self {
        Self {
            path,
            loaded: None,
            error: Some(why.error.clone()),
            diagnostics: why.diagnostics.clone(),
            excerpts: why.text.clone(),
        }
    }

    fn of_policy(path: PathBuf, ready: LoadedPolicy, lists: &[Text]) -> Self {
        let color = color::is_on(Stream::Stderr);
        // Undecided expectations are results.
        let is_shown = |warning: &&Diagnostic| warning.code != Code::ExpectationNotTested;
        let warnings: Vec<Diagnostic> = ready.warnings.iter().filter(is_shown).cloned().collect();
        let mut read = Self {
            path,
            loaded: None,
            error: None,
            diagnostics: warnings
                .iter()
                .map(|each| ready.sources.json(each))
                .collect(),
            excerpts: ready.sources.render(&warnings, color),
        };
        let mut groups = vec![Group {
            sources: ready.sources.clone(),
            cases: cases(&ready.policy, &ready.ruleset),
        }];
        let mut wrong = Vec::new();
        for list in lists {
            let (sources, parsed) = parse(&ready.policy, &list.name, &list.text);
            match parsed {
                Ok(cases) => groups.push(Group { sources, cases }),
                Err(errors) => {
                    wrong.push(format!("{} in {}", count(errors.len(), "error"), list.name));
                    read.diagnostics
                        .extend(errors.iter().map(|each| sources.json(each)));
                    read.excerpts.push_str(&sources.render(&errors, color));
                }
            }
        }
        match wrong.is_empty() {
            true => read.loaded = Some(Loaded { ready, groups }),
            false => read.error = Some(wrong.join(", ")),
        }
        read
    }

    /// Prints errors and warnings for people, where the format has no place for them.
    fn complain(&self, args: &TestArgs) {
        if args.json || args.format == TestFormat::Github {
            return;
        }
        complain(&self.excerpts);
        let number = self.loaded.as_ref().map(|loaded| loaded.cases().count());
        if number == Some(0) {
            complain(&format!(
                "warning: {} has no [[expect]], and no packets are given: nothing is tested\n",
                self.path.display()
            ));
        }
    }

    /// Judges the tests. Without `must_ask`, a system that permits no namespaces is not an error.
    fn judge(self, asked: &mut Asked, must_ask: bool) -> PolicyTests {
        let start = Instant::now();
        let mut done = PolicyTests {
            policy: self.path.display().to_string(),
            error: self.error,
            diagnostics: self.diagnostics,
            tests: Vec::new(),
            milliseconds: 0,
        };
        if let Some(loaded) = self.loaded {
            let fates = match asked {
                Asked::Kernel(_) => loaded.ask(),
                Asked::Nobody(_) => Ok(None),
            };
            let fates = fates.unwrap_or_else(|err| {
                match err {
                    LabError::Namespace(_) | LabError::Setting { .. } if !must_ask => {
                        *asked = Asked::Nobody(err.to_string());
                    }
                    LabError::Namespace(_)
                    | LabError::Setting { .. }
                    | LabError::Netlink { .. }
                    | LabError::Send(_)
                    | LabError::Load(_)
                    | LabError::Lost => done.error = Some(err.to_string()),
                }
                None
            });
            done.tests = loaded.judged(fates.as_deref());
        }
        done.milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        done
    }
}

/// What the kernel did with the packets of each test, by their positions.
type Fates = Vec<BTreeMap<usize, Fate>>;

impl Loaded {
    fn cases(&self) -> impl Iterator<Item = (&Case, &Sources)> {
        let groups = self.groups.iter();
        groups.flat_map(|group| group.cases.iter().map(|case| (case, &group.sources)))
    }

    /// Asks the kernel; `None` without tests.
    fn ask(&self) -> Result<Option<Fates>, LabError> {
        let cases: Vec<&Case> = self.cases().map(|(case, _)| case).collect();
        match cases.is_empty() {
            true => Ok(None),
            false => testing::run(&self.ready.ruleset, &cases).map(Some),
        }
    }

    fn judged(&self, fates: Option<&[BTreeMap<usize, Fate>]>) -> Vec<TestResult> {
        let (policy, ruleset) = (&self.ready.policy, &self.ready.ruleset);
        let all = self.cases().enumerate();
        all.map(|(at, (case, sources))| {
            let fates = fates.and_then(|fates| fates.get(at));
            judged(case, policy, ruleset, fates, sources)
        })
        .collect()
    }
}

pub(super) fn run(args: &TestArgs) -> u8 {
    let output = Output::new(args.json);
    let discovered = match check::facts(args.discovered.as_deref(), "test", &output) {
        Ok(discovered) => discovered,
        Err(code) => return code,
    };
    let lists: Result<Vec<Text>, _> = args
        .packets
        .iter()
        .map(|path| secure_file::text(path))
        .collect();
    let lists = match lists {
        Ok(lists) => lists,
        Err(err) => {
            let why = Failure::new(ErrorCode::InputUnreadable, err);
            return trouble("test", why, &output);
        }
    };
    let files = FileSystem::default();
    let files = Elsewhere::new(&files, discovered);
    let paths = match args.policies.is_empty() {
        true => vec![policy_path(&None)],
        false => args.policies.clone(),
    };
    // Everything is read on this host, before the process leaves it.
    let read: Vec<Read> = paths
        .into_iter()
        .map(|path| Read::new(path, &lists, &files))
        .collect();
    let mut asked = match permitted(args) {
        Ok(asked) => asked,
        Err(err) => {
            let why = Failure::new(ErrorCode::BackendUnavailable, err);
            return trouble("test", why, &output);
        }
    };
    for each in &read {
        each.complain(args);
    }
    let judge = |read: Read| read.judge(&mut asked, args.kernel);
    let policies = read.into_iter().map(judge).collect();
    let tested = Tested::new(policies, asked);
    print(&tested, args, &output);
    if let Some(path) = &args.junit
        && let Err(err) = secure_file::publish(path, &junit(&tested.policies))
    {
        let why = Failure::io(format!("cannot write {}: {err}", path.display()));
        return trouble("test", why, &Output::new(false));
    }
    tested.code()
}

fn print(tested: &Tested, args: &TestArgs, output: &Output) {
    if let Some(why) = tested
        .no_kernel
        .as_ref()
        .filter(|_| !args.no_kernel && !args.json)
    {
        complain(&format!("note: only the evaluator was asked: {why}\n"));
    }
    match (args.json, args.format) {
        (true, _) => output.json(tested),
        (false, TestFormat::Text) => output.text(&tested.text()),
        (false, TestFormat::Github) => {
            output.text(&github(&tested.policies));
            output.text(&tested.text());
        }
        (false, TestFormat::Sarif) => {
            output.bare_json(&sarif(&tested.policies, env!("CARGO_PKG_VERSION")));
            complain(&tested.text());
        }
    }
}

/// Makes this process one that may ask the kernel.
fn permitted(args: &TestArgs) -> Result<Asked, LabError> {
    if args.no_kernel {
        return Ok(Asked::Nobody("--no-kernel was given".to_owned()));
    }
    match namespace::permit() {
        Ok(()) => Ok(Asked::Kernel(kernel())),
        Err(err) if args.kernel => Err(LabError::Namespace(err)),
        Err(err) => Ok(Asked::Nobody(LabError::Namespace(err).to_string())),
    }
}

/// Names the kernel.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// Tests a policy by this kernel before it is applied, and returns its rules.
///
/// # Errors
/// [`Failure`] if a test does not pass, or if the kernel cannot be asked.
pub(super) fn verify(path: &Path, files: &FileSystem) -> Result<Ruleset, Failure> {
    let refused = |why: String| Failure::new(ErrorCode::NotVerified, why);
    let ready = prepare_to_test(path, files).map_err(|why| Failure::from(&*why))?;
    if ready.policy.options.backend == BackendChoice::Iptables {
        return Err(refused(ONLY_NFT.to_owned()));
    }
    // In a user namespace, apply would not have its rights on the host any more.
    if !namespace::is_permitted().map_err(Failure::io)? {
        let why = "--verify kernel needs CAP_SYS_ADMIN, to create a namespace";
        return Err(refused(why.to_owned()));
    }
    let read = Read::of_policy(path.to_owned(), ready, &[]);
    let ruleset = read
        .loaded
        .as_ref()
        .map(|loaded| loaded.ready.ruleset.clone());
    let mut asked = Asked::Kernel(kernel());
    let tested = read.judge(&mut asked, true);
    if let Some(why) = tested.error {
        return Err(refused(why));
    }
    let bad: Vec<&TestResult> = tested.tests.iter().filter(|test| test.is_bad()).collect();
    if bad.is_empty() {
        return ruleset.ok_or_else(|| refused("the policy has no rules".to_owned()));
    }
    let lines: String = bad
        .iter()
        .map(|test| format!("{}\n", test.line()))
        .collect();
    let number = count(bad.len(), "expectation");
    Err(Failure {
        text: Some(format!("{lines}{number} not met; nothing was changed")),
        ..refused(format!("{number} not met: {}", bad[0].line()))
    })
}
