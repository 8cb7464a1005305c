//! The terminal: its other screen, its size and its keys. Dropping it gives the terminal back as it was.

use std::io::{self, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{execute, queue};

/// A terminal that does not tell its size.
const SIZE: (u16, u16) = (80, 24);

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    View(usize),
    Next,
    Up,
    Down,
    PageUp,
    PageDown,
    Pause,
    Quit,
    /// The terminal has another size.
    Resize,
}

/// The other screen.
pub(super) struct Screen(());

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on a failure gives it back.
        let screen = Self(());
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, lines) = size().unwrap_or(SIZE);
        (columns.into(), lines.into())
    }

    /// Draws over what is there, line by line, so that nothing flickers.
    pub(super) fn draw(&self, lines: &[String], out: &mut dyn Write) -> io::Result<()> {
        let mut frame = Vec::new();
        for (at, line) in (0u16..).zip(lines) {
            queue!(
                frame,
                MoveTo(0, at),
                Print(line),
                Clear(ClearType::UntilNewLine)
            )?;
        }
        queue!(frame, Clear(ClearType::FromCursorDown))?;
        out.write_all(&frame)?;
        out.flush()
    }

    /// The next key within this time.
    pub(super) async fn key(&self, within: Duration) -> io::Result<Option<Key>> {
        let waiting = tokio::task::spawn_blocking(move || {
            let end = std::time::Instant::now() + within;
            loop {
                let left = end.saturating_duration_since(std::time::Instant::now());
                if !event::poll(left)? {
                    return Ok(None);
                }
                if let Some(key) = meaning(&event::read()?) {
                    return Ok(Some(key));
                }
            }
        });
        waiting
            .await
            .unwrap_or_else(|lost| Err(io::Error::other(lost)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell.
        drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
        drop(disable_raw_mode());
    }
}

fn meaning(event: &Event) -> Option<Key> {
    let key = match event {
        Event::Resize(..) => return Some(Key::Resize),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Key::Quit);
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('p') => Some(Key::Pause),
        KeyCode::Char('k') | KeyCode::Up => Some(Key::Up),
        KeyCode::Char('j') | KeyCode::Down => Some(Key::Down),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Key::PageDown),
        KeyCode::Tab => Some(Key::Next),
        KeyCode::Char(digit) => {
            let number = digit.to_digit(10).filter(|n| (1..=5).contains(n))?;
            Some(Key::View(number as usize))
        }
        _ => None,
    }
}
