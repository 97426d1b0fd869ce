//! Creates a topic, writes records to it, and tells where they went.
//!
//! Run it against a broker: `cargo run -p strandline-client --example produce -- 127.0.0.1:9290`.

use std::collections::BTreeMap;

use anyhow::Result;
use strandline_client::{
    Client, ClientError, ClientOptions, NewRecord, ProducerOptions,
    protocol::{ErrorCode, messages::NewTopic},
};

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:9290".to_owned());
    let client = Client::connect(&[address], ClientOptions::default()).await?;

    let topic = NewTopic {
        name: "greetings".to_owned(),
        partitions: Some(3),
        replication_factor: None,
        configs: BTreeMap::new(),
    };
    match client.admin().create_topics(&[topic]).await {
        Ok(_) => println!("created the topic"),
        Err(ClientError::Refused { code, .. }) if code == ErrorCode::TOPIC_ALREADY_EXISTS => {}
        Err(error) => return Err(error.into()),
    }

    let producer = client.producer(ProducerOptions::default())?;
    let mut deliveries = Vec::new();
    for (language, greeting) in [("en", "hello"), ("de", "moin"), ("fr", "salut")] {
        let headers = [("source", Some(&b"example"[..]))];
        let record = NewRecord::to("greetings")
            .key(language.as_bytes())
            .value(greeting.as_bytes())
            .headers(&headers);
        // `send` only waits when memory is used up: the records travel together.
        deliveries.push((greeting, producer.send(record).await?));
    }
    for (greeting, delivery) in deliveries {
        let position = delivery.await?;
        let (partition, offset) = (position.partition, position.offset.unwrap_or_default());
        println!("{greeting} is at offset {offset} of partition {partition}");
    }
    producer.close().await?;
    Ok(())
}
