//! A machine that remembers every command it applied, in order, as the course's services do.

use std::io::{self, Read, Write};

use imbl::Vector;
use quorate::Bytes;
use quorate::simulation::{CommandBuffer, Image, RestoreError, StateMachine};

/// Commands by the index at which they were applied.
pub(crate) type Applied = Vector<(u64, Bytes)>;

/// More than any command of a scenario has.
const COMMAND_BYTES_MAX: u32 = 1 << 20;

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Commands(Applied);

/// All of it.
pub(crate) struct CommandsImage(Applied);

impl StateMachine for Commands {
    type View = Applied;
    type Image = CommandsImage;

    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes {
        self.0.push_back((index, command.clone()));
        Bytes::new()
    }

    fn view(&self) -> Applied {
        self.0.clone()
    }

    fn query(_view: &Applied, _query: &Bytes) -> Bytes {
        Bytes::new()
    }

    fn image(&self) -> CommandsImage {
        CommandsImage(self.0.clone())
    }

    fn restore(source: &mut dyn Read) -> Result<Self, RestoreError> {
        let mut applied = Applied::new();
        let mut head = [0; 12];
        while source.read(&mut head[..1])? == 1 {
            source.read_exact(&mut head[1..])?;
            let (index, len) = head.split_at(8);
            let index = u64::from_le_bytes(index.try_into().expect("eight bytes"));
            let len = u32::from_le_bytes(len.try_into().expect("four bytes"));
            if len > COMMAND_BYTES_MAX {
                let what = "a command is longer than any";
                return Err(RestoreError::Malformed { what });
            }
            let mut command = vec![0; len as usize];
            source.read_exact(&mut command)?;
            applied.push_back((index, command.into()));
        }
        Ok(Self(applied))
    }
}

impl Image for CommandsImage {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        for (index, command) in &self.0 {
            out.write_all(&index.to_le_bytes())?;
            out.write_all(&(command.len() as u32).to_le_bytes())?;
            out.write_all(command)?;
        }
        Ok(())
    }
}

/// A command in its envelope: applied as often as it is committed, as the course's are.
pub(crate) fn sealed(command: &[u8]) -> Bytes {
    CommandBuffer::new(command).seal_plain()
}
