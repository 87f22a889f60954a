//! A terminal that a command draws on, and that is given back as it was however the command ends.
//!
//! While it is ours it is raw, shows the alternate screen and hides the cursor. [`leave`] undoes
//! that, once, and is called by the guard's drop, by the panic hook before the panic is told, and by
//! the signals before the process ends.

use std::{
    io::{self, IsTerminal as _, Stdout, Write as _},
    mem::ManuallyDrop,
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::Show,
    execute,
    terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size},
};
use ratatui::{Frame, Terminal, backend::CrosstermBackend};

use crate::exit::Failure;

/// Whether the terminal is ours.
static OURS: AtomicBool = AtomicBool::new(false);

/// The terminal, ours until this is dropped.
///
/// Its own drop would show the cursor, which [`leave`] does, and panic where the terminal is gone.
pub struct Screen(ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>);

/// Whether there is a terminal that can be drawn on.
pub fn is_there() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && !is_dumb && size().is_ok_and(|(columns, rows)| columns > 0 && rows > 0)
}

impl Screen {
    /// Takes the terminal.
    pub fn enter() -> Result<Self, Failure> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let tell = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                // What is told on the alternate screen is gone with it.
                leave();
                tell(panic);
            }));
        });
        let cannot = |error: io::Error| {
            leave();
            Failure::new(format!("cannot draw on this terminal: {error}"))
                .hint("a pipe gets lines instead: … | cat, or -o json")
        };
        // Before anything is changed, so that whatever is, is undone.
        OURS.store(true, Ordering::SeqCst);
        enable_raw_mode().map_err(cannot)?;
        execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All)).map_err(cannot)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout())).map_err(cannot)?;
        Ok(Self(ManuallyDrop::new(terminal)))
    }

    /// Draws all of it; what has not changed is not written again.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        if !OURS.load(Ordering::SeqCst) {
            return Err(Failure::new("a part of the program broke off; the terminal was given back to tell it"));
        }
        self.0.draw(draw)?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back, if it is ours.
pub fn leave() {
    if !OURS.swap(false, Ordering::SeqCst) {
        return;
    }
    // First what cannot wait for anybody to read; a terminal that is gone is as good as given back.
    let _ = disable_raw_mode();
    let mut out = io::stdout();
    let _ = execute!(out, LeaveAlternateScreen, Show);
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    /// Run by tests/scripts/test_track.py on a terminal, which must be as it was after it.
    #[test]
    #[ignore = "it panics, and needs a terminal"]
    fn a_panic_while_the_terminal_is_ours() {
        let Ok(mut screen) = super::Screen::enter() else { return };
        let drawn = screen.draw(|frame| {
            frame.render_widget("drawn", frame.area());
        });
        assert!(drawn.is_err(), "told on the terminal");
    }
}
