//! Lists in requests, bounded while they are read.
//!
//! An entry can take two bytes in a message and fifty times that in memory, so a list is cut off
//! before it has grown and not after.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use crate::limits::ENTRIES_PER_REQUEST_MAX;

/// Reads a list of at most [`ENTRIES_PER_REQUEST_MAX`] entries.
pub(super) fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(Entries(PhantomData))
}

/// The same for a list that may be left out.
pub(super) fn bounded_option<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    deserializer.deserialize_option(OptionalEntries(PhantomData))
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {ENTRIES_PER_REQUEST_MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        if let Some(length) = list
            .size_hint()
            .filter(|length| *length > ENTRIES_PER_REQUEST_MAX)
        {
            return Err(de::Error::invalid_length(length, &self));
        }
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == ENTRIES_PER_REQUEST_MAX {
                return Err(de::Error::invalid_length(entries.len() + 1, &self));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

struct OptionalEntries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OptionalEntries<T> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Entries::<T>(PhantomData).expecting(f)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        bounded(deserializer).map(Some)
    }
}
