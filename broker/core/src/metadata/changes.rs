//! What a watch is told when the image changes.
//!
//! *Pattern: state watch.* Whoever watches is pushed what changed, whole; a push that is lost with
//! its connection is made good by the metadata request of the next one.

use std::collections::BTreeSet;

use strandline_protocol::{PartitionId, messages::MetadataPush};

use super::{
    answer::{Added, Page, tell_brokers},
    image::Image,
};
use crate::topic_config::TopicConfig;

/// The pushes that take somebody who watches `names` from the image `before` to the image `after`,
/// in their order. None if nothing of that has changed.
#[must_use]
pub fn changes(
    before: &Image,
    after: &Image,
    defaults: &TopicConfig,
    names: &BTreeSet<String>,
) -> Vec<MetadataPush> {
    if before.version() >= after.version() {
        return Vec::new();
    }
    let brokers_before = tell_brokers(before);
    let brokers = tell_brokers(after);
    let (mut pages, mut page) = (Vec::new(), Page::new());
    for name in names {
        let (old, new) = (before.topic(name), after.topic(name));
        let Some(new) = new else {
            if old.is_some() && page.add_missing(name) == Added::NoRoom {
                pages.push(std::mem::replace(&mut page, Page::new()));
                page.add_missing(name);
            }
            continue;
        };
        if old.is_some_and(|old| old.version == new.version) {
            continue;
        }
        let mut first = PartitionId(0);
        while let Some(next) = page.add(new, first, defaults) {
            first = next;
            pages.push(std::mem::replace(&mut page, Page::new()));
        }
    }
    if !page.topics.is_empty() || (pages.is_empty() && brokers != brokers_before) {
        pages.push(page);
    }
    pages
        .into_iter()
        .map(|page| MetadataPush {
            version: after.version(),
            brokers: brokers.clone(),
            topics: page.topics,
        })
        .collect()
}
