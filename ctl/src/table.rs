//! Tables: aligned columns for people.

use crate::terminal::{Paint, Terminal};

/// A cell is not cut below this width, nor below its heading.
const MIN_WIDTH: usize = 8;

/// Space between columns.
const GAP: &str = "   ";

/// Rows of text under a heading.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(heading: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            rows: vec![heading.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row; it has as many cells as the heading.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self) -> String {
        self.render_for(Terminal::default())
    }

    /// The table as text, each line ended, for what it is printed on: a terminal gets a heading that
    /// stands out, and cells cut so that no line is longer than it is wide.
    pub(crate) fn render_for(&self, terminal: Terminal) -> String {
        let mut widths = self.widths();
        if let Some(most) = terminal.width {
            self.narrow(&mut widths, most);
        }
        let lines = self.rows.iter().map(|row| line(row, &widths));
        let mut text = String::new();
        for (i, line) in lines.enumerate() {
            match i {
                0 => text.push_str(&terminal.paint(Paint::Bold, &line)),
                _ => text.push_str(&line),
            }
            text.push('\n');
        }
        text
    }

    /// The rows without the heading, in columns at least as wide as `widths`, which grow if need be.
    pub(crate) fn render_rows(&self, widths: &mut Vec<usize>) -> String {
        for (i, width) in self.widths().into_iter().enumerate() {
            match widths.get_mut(i) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
        let lines = self.rows.iter().skip(1);
        lines.map(|row| line(row, widths) + "\n").collect()
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widths = cells.map(|cell: &String| cell.chars().count());
            widths.max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }

    /// Takes from the widest columns until the table fits, or nothing is left to take.
    fn narrow(&self, widths: &mut [usize], most: usize) {
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let heading = |column: usize| self.rows.first().and_then(|row| row.get(column));
        let least: Vec<usize> = (0..widths.len())
            .map(|column| {
                heading(column)
                    .map_or(0, |cell| cell.chars().count())
                    .max(MIN_WIDTH)
            })
            .collect();
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(most);
        while over > 0 {
            let wide = (0..widths.len()).filter(|column| widths[*column] > least[*column]);
            let Some(widest) = wide.max_by_key(|column| widths[*column]) else {
                return;
            };
            widths[widest] -= 1;
            over -= 1;
        }
    }
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, width)| {
        if cell.chars().count() <= *width {
            return format!("{cell:<width$}");
        }
        let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
        format!("{kept}\u{2026}")
    });
    cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_space() {
        let mut table = Table::new(["NAME", "CIDR"]);
        table.row(["a-long-name", "10.0.0.0/8"]);
        table.row(["é", ""]);
        assert_eq!(
            table.render(),
            "NAME          CIDR\na-long-name   10.0.0.0/8\né\n"
        );
    }

    #[test]
    fn a_terminal_gets_lines_that_fit_and_a_heading_that_stands_out() {
        let mut table = Table::new(["NAME", "SELECTOR", "A-HEADING-THAT-STAYS"]);
        table.row(["a", "app == 'web' && env in {'prod', 'test'}", "x"]);
        let terminal = Terminal {
            width: Some(50),
            colour: true,
            ..Terminal::default()
        };
        assert_eq!(
            table.render_for(terminal),
            "\u{1b}[1mNAME   SELECTOR               A-HEADING-THAT-STAYS\u{1b}[0m\n\
             a      app == 'web' && env\u{2026}   x\n"
        );
        let narrow = Terminal {
            width: Some(10),
            ..Terminal::default()
        };
        assert_eq!(
            table.render_for(narrow),
            "NAME   SELECTOR   A-HEADING-THAT-STAYS\na      app == \u{2026}   x\n"
        );
    }
}
