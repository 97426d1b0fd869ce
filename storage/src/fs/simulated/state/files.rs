//! What operations on one open file do.

use std::{io, ops::Range, path::Path};

use super::{
    super::{content::Content, fault::MachineOff, tree::Inode},
    Effect, Entered, Node, State, blocks,
};
use crate::fs::{FsError, Operation};

impl State {
    pub(in crate::fs::simulated) fn size(&self, file: Inode) -> u64 {
        match self.nodes.get(&file) {
            Some(Node::File(content)) => content.size(),
            _ => 0,
        }
    }

    pub(in crate::fs::simulated) fn allocate(
        &mut self,
        file: Inode,
        path: &Path,
        end: u64,
    ) -> Result<(), FsError> {
        self.run(Operation::Allocate, path, Effect::Changes, |state| {
            let size = state.content(file)?.size();
            if end <= size {
                return Ok(());
            }
            if state.tree.named().any(|inode| inode == file) {
                let grown = blocks(end).saturating_sub(blocks(size));
                let used = state.used.saturating_add(grown);
                if state.capacity.is_some_and(|capacity| used > capacity) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.used = used;
            }
            state.content(file)?.resize(end);
            Ok(())
        })
    }

    pub(in crate::fs::simulated) fn write(
        &mut self,
        file: Inode,
        path: &Path,
        at: u64,
        parts: &[&[u8]],
    ) -> Result<(), FsError> {
        self.run(Operation::Write, path, Effect::Changes, |state| {
            let content = state.content(file)?;
            let bytes = parts.concat();
            let length = u64::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let end = at.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
            within(content, at, end)?;
            content.write(at, &bytes);
            Ok(())
        })
    }

    pub(in crate::fs::simulated) fn zero(
        &mut self,
        file: Inode,
        path: &Path,
        range: Range<u64>,
    ) -> Result<(), FsError> {
        self.run(Operation::Write, path, Effect::Changes, |state| {
            let content = state.content(file)?;
            within(content, range.start, range.end)?;
            content.zero(range);
            Ok(())
        })
    }

    pub(in crate::fs::simulated) fn truncate(
        &mut self,
        file: Inode,
        path: &Path,
        size: u64,
    ) -> Result<(), FsError> {
        self.run(Operation::Truncate, path, Effect::Changes, |state| {
            let content = state.content(file)?;
            within(content, size, size)?;
            let freed = blocks(content.size()).saturating_sub(blocks(size));
            content.resize(size);
            if state.tree.named().any(|inode| inode == file) {
                state.used = state.used.saturating_sub(freed);
            }
            Ok(())
        })
    }

    pub(in crate::fs::simulated) fn sync(
        &mut self,
        file: Inode,
        path: &Path,
    ) -> Result<(), FsError> {
        let entered = self.enter(Operation::Sync, path, Effect::Changes);
        let is_off = self.is_off;
        let Some(Node::File(content)) = self.nodes.get_mut(&file) else {
            return Err(FsError::new(Operation::Sync, path, MachineOff::error()));
        };
        match entered {
            Ok(Entered::Last) => Err(FsError::new(Operation::Sync, path, MachineOff::error())),
            Ok(Entered::Whole) => {
                content.sync();
                Ok(())
            }
            Err(error) => {
                if !is_off {
                    content.fail_sync(&mut self.random);
                }
                Err(FsError::new(Operation::Sync, path, error))
            }
        }
    }

    pub(in crate::fs::simulated) fn read(
        &mut self,
        file: Inode,
        path: &Path,
        range: Range<u64>,
    ) -> Result<Vec<u8>, FsError> {
        self.run(Operation::Read, path, Effect::Looks, |state| {
            let content = state.content(file)?;
            within(content, range.start, range.end)?;
            Ok(content.read(range))
        })
    }

    pub(in crate::fs::simulated) fn is_resident(&self, file: Inode, range: &Range<u64>) -> bool {
        match self.nodes.get(&file) {
            Some(Node::File(content)) => {
                !content.is_cold && within(content, range.start, range.end).is_ok()
            }
            _ => false,
        }
    }

    pub(in crate::fs::simulated) fn populate(
        &mut self,
        file: Inode,
        path: &Path,
        range: &Range<u64>,
    ) -> Result<(), FsError> {
        self.run(Operation::Read, path, Effect::Looks, |state| {
            let content = state.content(file)?;
            within(content, range.start, range.end)?;
            content.is_cold = false;
            Ok(())
        })
    }
}

fn within(content: &Content, start: u64, end: u64) -> io::Result<()> {
    let size = content.size();
    if start <= end && end <= size {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("bytes {start}..{end} do not lie within its {size} bytes"),
    ))
}
