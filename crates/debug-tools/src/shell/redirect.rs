//! Redirections of a command's files.

use std::io;

use rustix::fs::MemfdFlags;

use super::run::{Leave, Run, Shell};
use super::syntax::{Redirect, RedirectKind};

/// A redirection that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error("{0}")]
    Text(io::Error),
    #[error("{target}: {error}")]
    Target { target: String, error: io::Error },
}

impl Shell {
    /// Opens the files of redirections; a failure ends the line.
    pub fn redirect(&mut self, redirects: &[Redirect]) -> Run {
        match self.try_redirect(redirects)? {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    /// Redirects, and returns the error of a file that cannot be opened.
    pub fn try_redirect(
        &mut self,
        redirects: &[Redirect],
    ) -> Result<Result<(), RedirectError>, Leave> {
        for redirect in redirects {
            let target = self.text_of(&redirect.target)?;
            if let Err(error) = self.open(redirect, &target) {
                return Ok(Err(match redirect.kind {
                    RedirectKind::Text => RedirectError::Text(error),
                    _ => RedirectError::Target { target, error },
                }));
            }
        }
        Ok(Ok(()))
    }

    fn open(&mut self, redirect: &Redirect, target: &str) -> io::Result<()> {
        let mut options = std::fs::File::options();
        match redirect.kind {
            RedirectKind::Read => options.read(true),
            RedirectKind::Write => options.write(true).create(true).truncate(true),
            RedirectKind::Append => options.append(true).create(true),
            RedirectKind::ReadWrite => options.read(true).write(true).create(true),
            RedirectKind::Text => {
                let file = rustix::fs::memfd_create("text", MemfdFlags::CLOEXEC)?;
                let mut file = std::fs::File::from(file);
                io::Write::write_all(&mut file, target.as_bytes())?;
                io::Seek::rewind(&mut file)?;
                self.files.put(redirect.descriptor, file.into());
                return Ok(());
            }
            RedirectKind::Duplicate => {
                if target == "-" {
                    self.files.close(redirect.descriptor);
                    return Ok(());
                }
                let file = target
                    .parse()
                    .ok()
                    .and_then(|number| self.files.get(number));
                let missing = || io::Error::other("there is no such file descriptor");
                let file = file.cloned().ok_or_else(missing)?;
                self.files.share(redirect.descriptor, file);
                return Ok(());
            }
        };
        let file = options.open(self.state.directory.join(target))?;
        self.files.put(redirect.descriptor, file.into());
        Ok(())
    }
}
