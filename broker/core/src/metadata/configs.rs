//! The configuration of topics, as it is told to people.

use strandline_protocol::{
    ErrorCode,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{
        ConfigEntry, ConfigSource, DescribeConfigsRequest, DescribeConfigsResponse, Failure,
        TopicConfigs,
    },
};

use super::{answer::unknown_topic, image::Image, topic::Topic};
use crate::topic_config::{KEYS, TopicConfig};

/// Every key of the topics that were asked for, with its value in force and where that comes from.
///
/// # Errors
/// `INVALID_REQUEST` if too many topics are named.
pub fn describe_configs(
    image: &Image,
    defaults: &TopicConfig,
    request: &DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, Failure> {
    let count = request.topics.len();
    if count > TOPICS_MAX {
        return Err(Failure::new(
            ErrorCode::INVALID_REQUEST,
            format!("{count} topics are too many for one request: send at most {TOPICS_MAX}"),
        ));
    }
    let topics = request.topics.iter().map(|name| match image.topic(name) {
        Some(topic) => TopicConfigs {
            name: name.clone(),
            failure: Failure::none(),
            entries: entries(topic, defaults),
        },
        None => TopicConfigs {
            name: name.clone(),
            failure: unknown_topic(name),
            entries: Vec::new(),
        },
    });
    Ok(DescribeConfigsResponse {
        topics: topics.collect(),
    })
}

/// How many topics one answer can describe within the largest message: about 700 bytes each.
const TOPICS_MAX: usize = ENTRIES_PER_REQUEST_MAX / 10;

fn entries(topic: &Topic, defaults: &TopicConfig) -> Vec<ConfigEntry> {
    let in_force = TopicConfig::resolve(defaults, &topic.configs);
    KEYS.iter()
        .map(|key| {
            let source = if topic.configs.contains_key(key.name) {
                ConfigSource::Topic
            } else if defaults.text(key) == key.default_text() {
                ConfigSource::Default
            } else {
                ConfigSource::Broker
            };
            ConfigEntry {
                key: key.name.into(),
                value: in_force.text(key),
                source,
            }
        })
        .collect()
}
