//! Commands and the guard: what is so before, what each does, and what may be so afterwards.

mod judge;

use super::fault::Fault;
use super::fault::PAGE;
use super::place::Place;
use super::world::{Force, World};
use super::{Scenario, Verdict};
use crate::ns::{sh, try_sh};
use judge::Judge;

/// How many free pages are tried, from one.
const PAGES: usize = 24;

/// What is so before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    /// Nothing was ever loaded.
    Empty,
    /// A was applied.
    Applied,
    /// A was applied, and then B.
    AppliedTwice,
    /// The same, and the machine was started again.
    Started,
    /// A was applied, and B is on trial for long.
    Trial,
    /// A was applied, and B is on trial for a second.
    ShortTrial,
    /// A was applied, and the host was blocked.
    Blocked,
}

/// A command.
#[derive(Debug, Clone)]
pub struct Action {
    name: &'static str,
    base: Base,
    /// `A` and `B` are the policies.
    args: &'static [&'static str],
    by_iptables: bool,
    /// Whether the state directory has room for some pages only, so that writes are short and then
    /// fail.
    is_full: bool,
    /// What is in force before.
    before: Force,
    /// What is in force after it succeeded.
    after: Force,
    /// How it exits then.
    code: i32,
    /// What the next boot loads then.
    boots: Force,
    /// What the next boot loads if it failed.
    boots_before: Force,
}

const USUAL: Action = Action {
    name: "change",
    base: Base::Applied,
    args: &["apply", "B"],
    by_iptables: false,
    is_full: false,
    before: Force::A,
    after: Force::B,
    code: 0,
    boots: Force::B,
    boots_before: Force::A,
};

/// Every command.
pub fn all() -> Vec<Action> {
    let by_nft = [
        Action {
            name: "first",
            base: Base::Empty,
            before: Force::Nothing,
            boots_before: Force::B,
            ..USUAL
        },
        USUAL,
        Action {
            name: "trial",
            args: &["apply", "--confirm", "60s", "B"],
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "confirm",
            base: Base::Trial,
            args: &["confirm"],
            before: Force::B,
            ..USUAL
        },
        Action {
            name: "rollback-trial",
            base: Base::Trial,
            args: &["rollback"],
            before: Force::B,
            after: Force::A,
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "rollback",
            base: Base::AppliedTwice,
            args: &["rollback"],
            before: Force::B,
            after: Force::A,
            boots: Force::A,
            boots_before: Force::B,
            ..USUAL
        },
        Action {
            name: "remove",
            args: &["remove"],
            after: Force::Nothing,
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "plan",
            args: &["plan", "B"],
            after: Force::A,
            code: 1,
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "boot",
            base: Base::Started,
            args: &["boot", "B"],
            before: Force::Nothing,
            boots_before: Force::B,
            ..USUAL
        },
        Action {
            name: "refused-apply",
            base: Base::Trial,
            args: &["apply", "A"],
            before: Force::B,
            code: 2,
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "refused-remove",
            base: Base::Trial,
            args: &["remove"],
            before: Force::B,
            code: 2,
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "block",
            args: &["block", "--no-confirm", "--force"],
            after: Force::Blocked,
            boots: Force::Blocked,
            ..USUAL
        },
        Action {
            name: "block-trial",
            args: &["block", "--confirm", "60s", "--force"],
            after: Force::Blocked,
            boots: Force::A,
            ..USUAL
        },
        Action {
            name: "unblock",
            base: Base::Blocked,
            args: &["unblock", "--force"],
            before: Force::Blocked,
            after: Force::A,
            boots: Force::A,
            boots_before: Force::Blocked,
            ..USUAL
        },
        Action {
            name: "guard",
            base: Base::ShortTrial,
            args: &["guard"],
            before: Force::B,
            after: Force::A,
            boots: Force::A,
            ..USUAL
        },
    ];
    let by_iptables = [
        "first", "change", "trial", "confirm", "rollback", "remove", "boot",
    ];
    let names = [
        "iptables-first",
        "iptables-change",
        "iptables-trial",
        "iptables-confirm",
        "iptables-rollback",
        "iptables-remove",
        "iptables-boot",
    ];
    let mut all = by_nft.to_vec();
    for (name, of) in names.into_iter().zip(by_iptables) {
        let found = by_nft.iter().find(|each| each.name == of);
        all.extend(found.map(|each| Action {
            name,
            by_iptables: true,
            ..each.clone()
        }));
    }
    let of_full = [
        "first",
        "change",
        "trial",
        "confirm",
        "rollback",
        "rollback-trial",
    ];
    let names = [
        "full-first",
        "full-change",
        "full-trial",
        "full-confirm",
        "full-rollback",
        "full-rollback-trial",
    ];
    for (name, of) in names.into_iter().zip(of_full) {
        let found = by_nft.iter().find(|each| each.name == of);
        all.extend(found.map(|each| Action {
            name,
            is_full: true,
            ..each.clone()
        }));
    }
    all
}

impl Action {
    fn args(&self, place: &Place) -> Vec<String> {
        let mut args: Vec<String> = self
            .args
            .iter()
            .map(|arg| match *arg {
                "A" => place.file("a.toml").display().to_string(),
                "B" => place.file("b.toml").display().to_string(),
                other => other.to_owned(),
            })
            .collect();
        let is_choice = matches!(self.args.first(), Some(&("apply" | "plan" | "remove")));
        if self.by_iptables && is_choice {
            args.extend(["--backend".to_owned(), "iptables".to_owned()]);
        }
        args
    }

    fn prepare(&self, world: &mut World) -> Place {
        let place = world.place();
        world.clean();
        let by = if self.by_iptables { "iptables" } else { "nft" };
        let apply = |policy: &str, more: &[&str]| {
            let policy = place.file(policy).display().to_string();
            let args = [&["apply", "--backend", by], more, &[policy.as_str()]].concat();
            world.must(&place, &args);
        };
        if self.base != Base::Empty {
            apply("a.toml", &[]);
        }
        match self.base {
            Base::Empty | Base::Applied => {}
            Base::AppliedTwice => apply("b.toml", &[]),
            Base::Blocked => {
                world.must(&place, &["block", "--no-confirm", "--force"]);
            }
            Base::Started => {
                apply("b.toml", &[]);
                world.clean();
            }
            Base::Trial | Base::ShortTrial => {
                let time = if self.base == Base::Trial {
                    "3600s"
                } else {
                    "1s"
                };
                apply("b.toml", &["--confirm", time]);
                world.end_processes(&place);
            }
        }
        place
    }

    /// Puts the state directory on a disk with this many free pages.
    fn fill(place: &Place, pages: u32) {
        let state = place.state().display().to_string();
        let kept = place.file("kept").display().to_string();
        sh(&format!(
            "mkdir -p {state} && chmod 700 {state} && cp -a {state} {kept} && \
             used=$(find {state} -type f -printf '%s\\n' | \
                 awk '{{ n += int(($1 + 4095) / 4096) }} END {{ print n + 0 }}') && \
             mount -t tmpfs -o mode=700,size=$(((used + {pages}) * 4096)) tmpfs {state} && \
             cp -a {kept}/. {state} && rm -r {kept}"
        ));
    }

    /// Lets the disk have room again, so that others can judge.
    fn make_room(&self, place: &Place, fault: Option<&Fault>) {
        if self.is_full && fault.is_some() {
            sh(&format!(
                "mount -o remount,size=64m {}",
                place.state().display()
            ));
        }
    }

    fn is_trial(&self) -> bool {
        self.args.contains(&"--confirm")
    }
}

impl Scenario for Action {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&self, world: &mut World, fault: Option<&Fault>) -> (Vec<String>, Verdict) {
        let place = self.prepare(world);
        let mut args = self.args(&place);
        // Long enough to be judged while it waits; where the process is killed, it has to run out.
        if self.is_trial() && fault.is_some_and(Fault::kills) {
            args[2] = "1s".into();
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if let Some(fault) = fault.filter(|_| self.is_full) {
            Self::fill(&place, fault.nth);
        }
        let ended = world.traced(&place, &args, fault.filter(|_| !self.is_full));
        self.make_room(&place, fault);
        let mut judge = Judge {
            action: self,
            world,
            place: &place,
            ended: &ended,
            flags: Vec::new(),
        };
        let word = judge.judge(fault);
        let mut flags = judge.flags;
        let run = fault.map_or_else(
            || self.name.to_owned(),
            |fault| format!("{} {fault}", self.name),
        );
        if !flags.is_empty() {
            let call = ended
                .injected()
                .unwrap_or("")
                .chars()
                .take(160)
                .collect::<String>();
            let said = ended.said.trim().replace('\n', " | ");
            flags.push(format!(
                "({word}, {} ms; {call}; said: {said})",
                ended.took.as_millis()
            ));
        }
        let is_waiting = self.is_trial() || matches!(self.base, Base::Trial);
        if is_waiting && place.trial_waits() {
            world.end_processes(&place);
        }
        let calls = match self.is_full {
            true => vec![PAGE.to_owned(); PAGES],
            false => ended.calls(),
        };
        if self.is_full {
            world.end_processes(&place);
            let _ = try_sh(&format!("umount -l {}", place.state().display()));
        }
        world.leave(place, &run);
        flags.extend(world.overdue(false));
        (calls, Verdict { ended: word, flags })
    }
}
