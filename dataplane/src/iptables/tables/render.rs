//! The input of `iptables-restore` for a batch.

use std::fmt::Write;

use super::{Batch, Key, STUB_HASH, Tables};
use crate::iptables::{Rank, Table, save::COMMENT_PREFIX};

impl Tables {
    pub(super) fn render(&self, batch: &Batch) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let body = self.render_table(batch, table);
            if !body.is_empty() {
                // Writing to a string cannot fail.
                let _infallible = write!(text, "*{}\n{body}COMMIT\n", table.name());
            }
        }
        text
    }

    fn render_table(&self, batch: &Batch, table: Table) -> String {
        let mut text = String::new();
        let of_table = |keys: &[Key]| -> Vec<String> {
            keys.iter()
                .filter(|key| key.0 == table)
                .map(|key| key.1.clone())
                .collect()
        };
        let (write, stub) = (of_table(&batch.write), of_table(&batch.stub));
        let delete = of_table(&batch.delete);
        // Declaring a chain makes it or empties it, here inside of the transaction.
        for name in write.iter().chain(&stub).chain(&delete) {
            text.push_str(&format!(":{name} - [0:0]\n"));
        }
        for name in &write {
            let chain = self.desired.get(&(table, name.clone()));
            for rule in chain
                .map(|chain| chain.rules.as_slice())
                .unwrap_or_default()
            {
                text.push_str(&format!("-A {name} {rule}\n"));
            }
        }
        for name in &stub {
            let comment = format!("{COMMENT_PREFIX}{STUB_HASH} not accepted by the kernel");
            let rank = self.desired.get(&(table, name.clone())).map(|c| c.rank);
            let target = match rank {
                Some(Rank::Aside) => "RETURN",
                _ => "DROP",
            };
            text.push_str(&format!(
                "-A {name} -m comment --comment \"{comment}\" -j {target}\n"
            ));
        }
        if batch.hooks {
            text.push_str(&self.render_hooks(table));
        }
        for name in &delete {
            text.push_str(&format!("-X {name}\n"));
        }
        text
    }

    fn render_hooks(&self, table: Table) -> String {
        let mut text = String::new();
        for ((_, builtin), hooks) in self.kernel_hooks.iter().filter(|(key, _)| key.0 == table) {
            for hook in hooks {
                text.push_str(&format!("-D {builtin} {}\n", hook.text));
            }
        }
        for ((_, builtin), (_, rule)) in self.hooks.iter().filter(|(key, _)| key.0 == table) {
            text.push_str(&format!("-I {builtin} 1 {rule}\n"));
        }
        text
    }
}
