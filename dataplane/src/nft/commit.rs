//! From a plan to the messages of one transaction.

use super::{
    base::BaseHook,
    driver::Nftables,
    element::{self, Kind, Shape},
    plan::{About, Plan},
    ports::Ports,
    read::FoundChain,
    render::{self, Rule},
    wire::{BigEndian, Message, TABLE_USERDATA, Transaction, chain, elements, rule, set},
};
use crate::{ipset::Entry, netlink::Request};

/// Elements of one message: an attribute holds 64 KiB, and an element of a map takes up to 220 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// `NLM_F_CREATE | NLM_F_APPEND`.
const APPEND: i32 = libc::NLM_F_CREATE | libc::NLM_F_APPEND;

impl Nftables {
    /// The messages of a plan, in an order in which each finds what it refers to: chains and sets are
    /// made, members change, rules change, and what nothing refers to any more goes.
    pub(super) fn messages(&mut self, plan: &Plan) -> Transaction<About> {
        let mut out = Transaction::new();
        if plan.anew {
            out.push(About::Table, Message::DelTable, 0, |_| {});
        }
        if plan.make_table || plan.anew {
            out.push(About::Table, Message::NewTable, libc::NLM_F_CREATE, |m| {
                m.bytes(
                    TABLE_USERDATA,
                    &comment("Margay writes this table anew as needed"),
                );
            });
        }
        for name in plan.write.iter().chain(&plan.stub) {
            self.make_chain(&mut out, name);
        }
        for name in &plan.make_sets {
            if let Some(kind) = self.sets.get(name).map(|set| set.kind) {
                self.make_set(&mut out, About::Set(name.clone()), name, kind);
            } else if let Some(ports) = self.ports.get(name).cloned() {
                self.make_ports(&mut out, &ports);
            }
        }
        for (family, place) in &plan.make_maps {
            if let Some(dispatch) = self.dispatch.get(family) {
                let (name, kind) = (dispatch.name(*place), dispatch.kind(*place));
                self.make_set(&mut out, About::Map(*family, *place), &name, kind);
            }
        }
        self.change_members(&mut out, plan);
        let mut rewritten: Vec<(&String, Vec<Rule>)> = Vec::new();
        for name in &plan.write {
            let rules = self.desired.get(name).map(|chain| chain.rules.clone());
            rewritten.push((name, rules.unwrap_or_default()));
        }
        for name in &plan.stub {
            rewritten.push((name, self.stub(name)));
        }
        rewritten.extend(plan.delete.iter().map(|name| (name, Vec::new())));
        for (name, rules) in rewritten {
            self.write_rules(&mut out, name, &rules);
        }
        for name in &plan.delete {
            let about = About::Chain(name.clone());
            out.push(about, Message::DelChain, 0, |m| m.string(chain::NAME, name));
        }
        for name in &plan.delete_sets {
            let about = About::Set(name.clone());
            out.push(about, Message::DelSet, 0, |m| m.string(set::NAME, name));
        }
        out
    }

    fn make_chain(&self, out: &mut Transaction<About>, name: &str) {
        let about = || About::Chain(name.to_owned());
        let hook = self.desired.get(name).and_then(|chain| chain.hook);
        if let Some(found) = self.kernel.get(name) {
            if found.hook == hook.map(BaseHook::place) {
                return;
            }
            // Somebody made a chain by our name that packets come into elsewhere.
            for message in [Message::DelRule, Message::DelChain] {
                let attribute = match message {
                    Message::DelRule => rule::CHAIN,
                    _ => chain::NAME,
                };
                out.push(about(), message, 0, |m| m.string(attribute, name));
            }
        }
        out.push(about(), Message::NewChain, libc::NLM_F_CREATE, |m| {
            m.string(chain::NAME, name);
            if let Some(hook) = hook {
                m.nest(chain::HOOK, &[], |h| {
                    h.be32(chain::HOOK_NUMBER, hook.number);
                    h.be32(chain::HOOK_PRIORITY, hook.priority as u32);
                });
                m.string(chain::TYPE, hook.kind);
                // NF_ACCEPT: what has nothing to do with us passes.
                m.be32(chain::POLICY, 1);
            }
        });
    }

    fn make_set(&mut self, out: &mut Transaction<About>, about: About, name: &str, kind: Kind) {
        let id = self.new_id();
        out.push(about, Message::NewSet, libc::NLM_F_CREATE, |m| {
            m.string(set::NAME, name);
            m.be32(set::ID, id);
            kind.describe(m);
        });
    }

    fn make_ports(&mut self, out: &mut Transaction<About>, ports: &Ports) {
        let (id, name) = (self.new_id(), ports.name());
        let about = || About::Set(name.to_owned());
        out.push(about(), Message::NewSet, libc::NLM_F_CREATE, |m| {
            m.string(set::NAME, name);
            m.be32(set::ID, id);
            Ports::describe(m);
        });
        out.push(about(), Message::NewElements, libc::NLM_F_CREATE, |m| {
            m.string(elements::SET, name);
            m.nest(elements::LIST, &[], |l| ports.write(l));
        });
    }

    fn change_members(&self, out: &mut Transaction<About>, plan: &Plan) {
        for (name, changes) in &plan.sets {
            let Some(shape) = self.sets.get(name).map(|set| set.kind.shape) else {
                continue;
            };
            let about = About::Set(name.clone());
            let add: Vec<(Entry, Option<&str>)> = changes.add.iter().map(|e| (*e, None)).collect();
            if changes.flush {
                empty(out, about.clone(), name);
            }
            change(
                out,
                &about,
                name,
                shape,
                &without_chain(&changes.remove),
                false,
            );
            change(out, &about, name, shape, &add, true);
        }
        for (family, place, changes) in &plan.maps {
            let Some(dispatch) = self.dispatch.get(family) else {
                continue;
            };
            let (name, shape) = (dispatch.name(*place), dispatch.kind(*place).shape);
            let about = About::Map(*family, *place);
            let add = changes
                .add
                .iter()
                .map(|(e, chain)| (*e, Some(chain.as_str())));
            let add: Vec<(Entry, Option<&str>)> = add.collect();
            if changes.flush && dispatch.exists(*place) {
                empty(out, about.clone(), &name);
            }
            change(
                out,
                &about,
                &name,
                shape,
                &without_chain(&changes.remove),
                false,
            );
            change(out, &about, &name, shape, &add, true);
        }
    }

    /// Takes the rules of a chain away and writes these.
    fn write_rules(&self, out: &mut Transaction<About>, name: &str, rules: &[Rule]) {
        let about = || About::Chain(name.to_owned());
        let has_rules = |chain: &FoundChain| !chain.hashes.is_empty();
        if self.kernel.get(name).is_some_and(has_rules) {
            out.push(about(), Message::DelRule, 0, |m| {
                m.string(rule::CHAIN, name)
            });
        }
        for one in rules {
            out.push(about(), Message::NewRule, APPEND, |m: &mut Request<'_>| {
                m.string(rule::CHAIN, name);
                m.nest(rule::EXPRESSIONS, &[], |e| e.attributes(&one.expressions));
                m.bytes(rule::USERDATA, &one.userdata);
            });
        }
    }

    fn new_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }
}

fn without_chain(entries: &[Entry]) -> Vec<(Entry, Option<&'static str>)> {
    entries.iter().map(|entry| (*entry, None)).collect()
}

/// Takes every element of a set away.
fn empty(out: &mut Transaction<About>, about: About, name: &str) {
    out.push(about, Message::DelElements, 0, |m| {
        m.string(elements::SET, name)
    });
}

fn change(
    out: &mut Transaction<About>,
    about: &About,
    name: &str,
    shape: Shape,
    entries: &[(Entry, Option<&str>)],
    add: bool,
) {
    let (message, flags) = match add {
        true => (Message::NewElements, libc::NLM_F_CREATE),
        false => (Message::DelElements, 0),
    };
    for part in entries.chunks(ELEMENTS_PER_MESSAGE) {
        out.push(about.clone(), message, flags, |m| {
            m.string(elements::SET, name);
            m.nest(elements::LIST, &[], |l| {
                for (entry, chain) in part {
                    element::write(l, shape, entry, *chain);
                }
            });
        });
    }
}

/// Userdata that `nft` shows as a comment.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![render::COMMENT_TAG, text.len() as u8 + 1];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}
