//! Strings as small integers, counted so that values nobody uses any more give their place back.

use std::sync::Arc;

use hashbrown::HashMap;

/// An interned string: a label key or a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sym(u32);

/// The table of strings in use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    by_text: HashMap<Arc<str>, Sym, foldhash::fast::RandomState>,
    entries: Vec<Entry>,
    free: Vec<Sym>,
}

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

impl Interner {
    /// The symbol of `text`, which counts one use more.
    pub(super) fn acquire(&mut self, text: &str) -> Sym {
        if let Some(&sym) = self.by_text.get(text) {
            self.entries[sym.0 as usize].uses += 1;
            return sym;
        }
        let entry = Entry {
            text: text.into(),
            uses: 1,
        };
        let text = Arc::clone(&entry.text);
        let sym = match self.free.pop() {
            Some(sym) => {
                self.entries[sym.0 as usize] = entry;
                sym
            }
            None => {
                self.entries.push(entry);
                Sym(u32::try_from(self.entries.len() - 1)
                    .expect("fewer than 2^32 strings fit in memory"))
            }
        };
        self.by_text.insert(text, sym);
        sym
    }

    /// Gives one use back.
    pub(super) fn release(&mut self, sym: Sym) {
        let entry = &mut self.entries[sym.0 as usize];
        entry.uses -= 1;
        if entry.uses == 0 {
            self.by_text.remove(&*entry.text);
            self.free.push(sym);
        }
    }

    /// The text of a symbol in use.
    pub(super) fn text(&self, sym: Sym) -> &str {
        &self.entries[sym.0 as usize].text
    }

    /// How many strings are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_text.len()
    }
}
