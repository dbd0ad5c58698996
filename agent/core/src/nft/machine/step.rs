//! One expression of a rule.

use std::cmp::Ordering;
use std::net::IpAddr;

use peerwall_proto::netlink::attr::{self, u32_from_register, u32_register};
use peerwall_proto::nf_tables::expr::{
    Bitwise, Byteorder, Cmp, Data, Dynset, Expr, Immediate, Lookup, NFT_BREAK, NFT_CONTINUE,
    NFT_GOTO, NFT_JUMP, NFT_RETURN, Nat, Objref, Payload, Range, Redir,
};
use peerwall_proto::nf_tables::{Element, NF_ACCEPT, NF_DROP, Nested};

use super::bits::Bits;
use super::loads::{self, Load, Place};
use super::run::{Action, Run};
use super::sets::{self, Found};
use crate::net::addr::Family;

/// `NFT_REG_VERDICT`
const NFT_REG_VERDICT: u32 = 0;
/// `NFT_LOOKUP_F_INV`, `NFT_LIMIT_F_INV`, `NFT_CONNLIMIT_F_INV`, `NFT_QUOTA_F_INV`
const INVERTED: u32 = 1;

/// What an expression does.
pub(super) enum Step {
    /// The next expression follows.
    Next,
    /// The rule does not match.
    Break,
    /// The rule ends with an action.
    Act(Action),
}

impl Step {
    fn of(matches: bool) -> Self {
        if matches { Self::Next } else { Self::Break }
    }
}

impl Run<'_, '_> {
    pub(super) fn step(&mut self, expr: &Expr) -> Step {
        match expr {
            Expr::Payload(payload) => match (payload.dreg, payload.sreg) {
                (Some(register), _) => {
                    let load = loads::payload(self.frame, payload);
                    self.load(register, load)
                }
                (None, _) => self.write_payload(payload),
            },
            Expr::Meta(meta) => match (meta.dreg, meta.sreg) {
                (Some(register), _) => {
                    let place = Place {
                        bridge: self.bridge,
                        has_out: self.has_out,
                    };
                    let load = loads::meta(self.frame, meta, &place, self.way.host);
                    self.load(register, load)
                }
                (None, Some(register)) if meta.key == Some(3) => {
                    self.frame.mark = self.registers.read(register, 4);
                    Step::Next
                }
                (None, _) => Step::Next,
            },
            Expr::Ct(ct) => match (ct.dreg, ct.sreg) {
                (Some(register), _) => {
                    let load = loads::ct(self.frame, ct);
                    self.load(register, load)
                }
                (None, Some(register)) => self.set_ct(ct.key.unwrap_or(u32::MAX), register),
                (None, None) => Step::Next,
            },
            Expr::Fib(fib) => {
                let load = loads::fib(self.frame, fib, self.way.host);
                self.load(fib.dreg.unwrap_or_default(), load)
            }
            Expr::Exthdr(exthdr) => match exthdr.dreg {
                Some(register) => self.load(register, loads::exthdr(exthdr)),
                None => Step::Next,
            },
            Expr::Rt(rt) => self.unknown(rt.dreg, "data of the route"),
            Expr::Socket(socket) => self.unknown(socket.dreg, "the socket for the packet"),
            Expr::Osf(osf) => self.unknown(osf.dreg, "the operating system of the sender"),
            Expr::Hash(hash) => self.unknown(hash.dreg, "a hash of the packet"),
            Expr::Numgen(numgen) => self.unknown(numgen.dreg, "a number by chance or in turns"),
            Expr::Xfrm(xfrm) => self.unknown(xfrm.dreg, "data of IPsec"),
            Expr::Tunnel(tunnel) => self.unknown(tunnel.dreg, "data of a tunnel"),
            Expr::Cmp(cmp) => self.compare(cmp),
            Expr::Range(range) => self.range(range),
            Expr::Bitwise(bitwise) => self.bitwise(bitwise),
            Expr::Byteorder(byteorder) => self.byteorder(byteorder),
            Expr::Immediate(immediate) => self.immediate(immediate),
            Expr::Lookup(lookup) => self.look_up(lookup),
            Expr::Dynset(dynset) => self.dynset(dynset),
            Expr::Limit(limit) => self.limited(limit.flags),
            Expr::Connlimit(limit) => self.limited(limit.flags),
            Expr::Quota(quota) => {
                let is_over = quota.consumed.unwrap_or_default() >= quota.bytes.unwrap_or(u64::MAX);
                let wants_over = quota.flags.unwrap_or_default() & INVERTED != 0;
                Step::of(is_over == wants_over)
            }
            Expr::Objref(objref) => self.objref(objref),
            Expr::Nat(nat) => self.nat(nat),
            Expr::Redir(redir) => self.redir(redir),
            Expr::Masq(_) => Step::Act(Action::Accept),
            Expr::Reject(_) => Step::Act(Action::Reject),
            Expr::CounterExpr(_)
            | Expr::Last(_)
            | Expr::Log(_)
            | Expr::Dup(_)
            | Expr::FlowOffload(_) => Step::Next,
            Expr::Notrack => {
                self.frame.tracked.state = crate::net::packet::CtState::Untracked;
                Step::Next
            }
            Expr::Queue(_) => self.perhaps(Action::Accept, Action::Drop, || {
                "what a program that reads a queue decides".to_owned()
            }),
            Expr::Synproxy(_) | Expr::Fwd(_) => Step::Act(Action::Accept),
            Expr::Match(found) if found.match_name.as_deref() == Some("comment") => Step::Next,
            Expr::Match(found) => {
                let name = found.match_name.clone().unwrap_or_default();
                Step::of(
                    self.way
                        .choices
                        .is_so(|| format!("the match `{name}` of iptables")),
                )
            }
            Expr::Target(found) => self.target(found.target_name.as_deref().unwrap_or_default()),
            Expr::Tproxy(_) | Expr::Inner(_) | Expr::Other { .. } => {
                let name = expr.name().to_owned();
                Step::of(
                    self.way
                        .choices
                        .is_so(|| format!("the expression `{name}`")),
                )
            }
        }
    }

    fn load(&mut self, register: u32, load: Load) -> Step {
        match load {
            Load::Value(bits, about) => {
                self.registers.write(register, bits, about);
                Step::Next
            }
            Load::Nothing => Step::Break,
        }
    }

    /// Loads a value of which nothing is known.
    fn unknown(&mut self, register: Option<u32>, about: &str) -> Step {
        let register = register.unwrap_or(NFT_REG_VERDICT);
        self.registers.write(register, Bits::unknown(16), about);
        Step::Next
    }

    /// Decides on a comparison whose result may be unknown.
    fn decide(&mut self, found: Option<bool>, register: u32, len_bytes: usize) -> bool {
        found.unwrap_or_else(|| {
            let about = self.registers.about(register, len_bytes);
            self.way.choices.is_so(|| about)
        })
    }

    fn perhaps(&mut self, a: Action, b: Action, about: impl FnOnce() -> String) -> Step {
        Step::Act(if self.way.choices.is_so(about) { b } else { a })
    }

    fn write_payload(&mut self, payload: &Payload) -> Step {
        let size = |number: Option<u32>| usize::try_from(number.unwrap_or_default()).unwrap_or(0);
        let (at, len) = (size(payload.offset_bytes), size(payload.len_bytes));
        let value = self.registers.read(payload.sreg.unwrap_or_default(), len);
        match payload.base {
            Some(0) => self.frame.link.put(at, &value),
            Some(1) => self.frame.network.put(at, &value),
            Some(2) => self.frame.transport.put(at, &value),
            _ => {}
        }
        Step::Next
    }

    fn set_ct(&mut self, key: u32, register: u32) -> Step {
        match key {
            3 => self.frame.tracked.mark = self.registers.read(register, 4),
            // Bits are added to the label (`nf_connlabels_replace()`).
            13 => {
                let added = self.registers.read(register, 16);
                self.frame.tracked.label = self.frame.tracked.label.combined(&added, |a, b| a | b);
            }
            _ => {}
        }
        Step::Next
    }

    fn compare(&mut self, cmp: &Cmp) -> Step {
        let register = cmp.sreg.unwrap_or_default();
        let Some(want) = cmp.data.as_ref().and_then(|data| data.0.value.as_deref()) else {
            return Step::Break;
        };
        let value = self.registers.read(register, want.len());
        let order = |holds: fn(Ordering) -> bool| value.compared(want).map(holds);
        // `enum nft_cmp_ops`
        let found = match cmp.op.unwrap_or_default() {
            0 => value.equals(want),
            1 => value.equals(want).map(|is_equal| !is_equal),
            2 => order(Ordering::is_lt),
            3 => order(Ordering::is_le),
            4 => order(Ordering::is_gt),
            _ => order(Ordering::is_ge),
        };
        Step::of(self.decide(found, register, want.len()))
    }

    fn range(&mut self, range: &Range) -> Step {
        let register = range.sreg.unwrap_or_default();
        let end = |data: &Option<Nested<Data>>| data.as_ref().and_then(|data| data.0.value.clone());
        let (Some(first), Some(last)) = (end(&range.from), end(&range.to)) else {
            return Step::Break;
        };
        let value = self.registers.read(register, first.len());
        let is_within = value.is_within(&first, &last);
        let found = is_within.map(|is_within| is_within == (range.op.unwrap_or_default() == 0));
        Step::of(self.decide(found, register, first.len()))
    }

    fn bitwise(&mut self, bitwise: &Bitwise) -> Step {
        let from = bitwise.sreg.unwrap_or_default();
        let len = usize::try_from(bitwise.len_bytes.unwrap_or_default()).unwrap_or_default();
        let value = self.registers.read(from, len);
        let about = self.registers.about(from, len);
        let bytes = |data: &Option<Nested<Data>>| {
            let value = data.as_ref().and_then(|data| data.0.value.clone());
            value.unwrap_or_default()
        };
        let other = || match bitwise.sreg2 {
            Some(register) => self.registers.read(register, len),
            None => Bits::known(bytes(&bitwise.data)),
        };
        // `enum nft_bitwise_ops`
        let result = match bitwise.op.unwrap_or_default() {
            0 => value.masked(&bytes(&bitwise.mask), &bytes(&bitwise.xor)),
            op @ (1 | 2) => shifted(&value, &bytes(&bitwise.data), op == 1),
            3 => value.combined(&other(), |a, b| a & b),
            4 => value.combined(&other(), |a, b| a | b),
            _ => value.combined(&other(), |a, b| a ^ b),
        };
        self.registers
            .write(bitwise.dreg.unwrap_or_default(), result, &about);
        Step::Next
    }

    fn byteorder(&mut self, byteorder: &Byteorder) -> Step {
        let size = |number: Option<u32>| usize::try_from(number.unwrap_or_default()).unwrap_or(0);
        let from = byteorder.sreg.unwrap_or_default();
        let (len, unit) = (size(byteorder.len_bytes), size(byteorder.size_bytes));
        let about = self.registers.about(from, len);
        let value = self.registers.read(from, len);
        let value = match cfg!(target_endian = "little") {
            true => value.swapped(unit),
            false => value,
        };
        self.registers
            .write(byteorder.dreg.unwrap_or_default(), value, &about);
        Step::Next
    }

    fn immediate(&mut self, immediate: &Immediate) -> Step {
        let Some(data) = immediate.data.as_ref().map(|data| &data.0) else {
            return Step::Next;
        };
        self.assign(immediate.dreg.unwrap_or(NFT_REG_VERDICT), data)
    }

    /// Writes a value to a register, or acts by a verdict.
    fn assign(&mut self, register: u32, data: &Data) -> Step {
        if let Some(verdict) = &data.verdict {
            let chain = || verdict.0.chain.clone().unwrap_or_default();
            let code = verdict.0.code.unwrap_or_default();
            return match code.cast_signed() {
                NFT_CONTINUE => Step::Next,
                NFT_BREAK => Step::Break,
                NFT_JUMP => Step::Act(Action::Jump(chain())),
                NFT_GOTO => Step::Act(Action::Goto(chain())),
                NFT_RETURN => Step::Act(Action::Return),
                _ if code == NF_ACCEPT => Step::Act(Action::Accept),
                _ if code & 0xff == NF_DROP => Step::Act(Action::Drop),
                _ => self.perhaps(Action::Accept, Action::Drop, || {
                    "what a program that reads a queue decides".to_owned()
                }),
            };
        }
        let value = Bits::known(data.value.clone().unwrap_or_default());
        self.registers.write(register, value, "");
        Step::Next
    }

    fn look_up(&mut self, lookup: &Lookup) -> Step {
        let name = lookup.set.as_deref().unwrap_or_default();
        let table = self.table;
        let register = lookup.sreg.unwrap_or_default();
        let is_inverted = lookup.flags.unwrap_or_default() & INVERTED != 0;
        let Some(set) = table.sets.get(name) else {
            return Step::of(
                self.way
                    .choices
                    .is_so(|| format!("the content of set {name}")),
            );
        };
        let key = self.registers.read(register, set.key_bytes());
        let element = match set.find(&key) {
            Found::No => None,
            Found::Yes(element) => Some(element),
            Found::Maybe(possible) => {
                let about = self.registers.about(register, set.key_bytes());
                let possible = distinct(possible);
                let about = || match possible.is_empty() {
                    true => format!("the content of set {name}"),
                    false => about,
                };
                let answer = self.way.choices.choose(possible.len().max(1) + 1, about);
                match (answer.checked_sub(1), lookup.dreg) {
                    (None, _) => None,
                    (Some(_), None) => return Step::of(!is_inverted),
                    (Some(at), Some(register)) => match possible.get(at) {
                        Some(element) => Some(*element),
                        None => return self.unknown(Some(register), "the content of a map"),
                    },
                }
            }
        };
        match (element, lookup.dreg) {
            (found, None) => Step::of(found.is_some() != is_inverted),
            (None, Some(_)) => Step::Break,
            (Some(element), Some(register)) => match sets::data(element) {
                Some(data) => self.assign(register, data),
                None => Step::Break,
            },
        }
    }

    /// Adds to a set. Limits of its elements count as not exceeded.
    fn dynset(&mut self, dynset: &Dynset) -> Step {
        let one = dynset.expr.as_ref().map(|expr| &expr.0);
        for expr in one.into_iter().chain(dynset.exprs.iter().flatten()) {
            let step = self.step(expr);
            if let Step::Break | Step::Act(_) = step {
                return step;
            }
        }
        Step::Next
    }

    fn limited(&mut self, flags: Option<u32>) -> Step {
        if self.decides {
            let assumed = "no rate limit is exceeded".to_owned();
            self.way.assumed.insert(assumed);
        }
        Step::of(flags.unwrap_or_default() & INVERTED == 0)
    }

    fn objref(&mut self, objref: &Objref) -> Step {
        // `NFT_OBJECT_LIMIT`, `CONNLIMIT` and `QUOTA` decide; others do not.
        match objref.imm_type {
            Some(kind @ (2 | 4 | 5)) => {
                let what = ["", "", "quota", "", "limit", "number of connections"];
                let what = what[usize::try_from(kind).unwrap_or_default()];
                let name = objref.imm_name.clone().unwrap_or_default();
                Step::of(self.way.choices.is_so(|| format!("the {what} {name}")))
            }
            _ => Step::Next,
        }
    }

    fn nat(&mut self, nat: &Nat) -> Step {
        // `NFT_NAT_DNAT`
        if nat.kind == Some(1) {
            let len = if self.frame.family == Family::V4 {
                4
            } else {
                16
            };
            let read = |register: u32, len| self.registers.read(register, len);
            let address = nat.reg_addr_min.map(|register| read(register, len));
            let address = address.and_then(|bits| address_of(bits.whole()?));
            let port = nat.reg_proto_min.map(|register| read(register, 2));
            let port = port.and_then(|bits| attr::port(bits.whole()?));
            let is_range = nat
                .reg_addr_max
                .is_some_and(|max| Some(max) != nat.reg_addr_min);
            if is_range || (nat.reg_addr_min.is_some() && address.is_none()) {
                let note = "of several destinations of a DNAT, the first one";
                self.way.assumed.insert(note.to_owned());
            }
            self.frame.translate(address, port);
        }
        Step::Act(Action::Translated)
    }

    fn redir(&mut self, redir: &Redir) -> Step {
        let port = redir
            .reg_proto_min
            .map(|register| self.registers.read(register, 2));
        let port = port.and_then(|bits| attr::port(bits.whole()?));
        let (interface, family) = (&self.frame.interface, self.frame.family);
        let address = self.way.host.redirect_address(interface, family);
        self.frame.translate(address, port);
        Step::Act(Action::Translated)
    }

    /// Evaluates a target of iptables-nft.
    fn target(&mut self, name: &str) -> Step {
        match name {
            "REJECT" => Step::Act(Action::Reject),
            "LOG" | "NFLOG" | "TCPMSS" | "CHECKSUM" | "CT" | "SET" | "TRACE" | "CLASSIFY"
            | "DSCP" | "TOS" | "TTL" | "HL" | "RATEEST" | "IDLETIMER" | "LED" | "AUDIT" => {
                Step::Next
            }
            "MARK" | "CONNMARK" => {
                self.frame.mark = Bits::unknown(4);
                self.frame.tracked.mark = Bits::unknown(4);
                Step::Next
            }
            "MASQUERADE" | "SNAT" | "NETMAP" => Step::Act(Action::Accept),
            _ => Step::of(
                self.way
                    .choices
                    .is_so(|| format!("the target `{name}` of iptables")),
            ),
        }
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Shifts words of 4 bytes in host byte order, over the whole value.
fn shifted(value: &Bits, by: &[u8], is_left: bool) -> Bits {
    let by = u32_from_register(by).unwrap_or_default();
    let word = value.whole().filter(|bytes| bytes.len() == 4);
    let Some(number) = word.and_then(u32_from_register) else {
        return Bits::unknown(value.len_bytes());
    };
    let number = match is_left {
        true => number.checked_shl(by),
        false => number.checked_shr(by),
    };
    Bits::known(u32_register(number.unwrap_or_default()))
}

/// Returns the elements with different values.
fn distinct(elements: Vec<&Element>) -> Vec<&Element> {
    let mut found: Vec<&Element> = Vec::new();
    for element in elements {
        if !found.iter().any(|other| other.data == element.data) {
            found.push(element);
        }
    }
    found
}
