//! Reads a topic from its beginning to its end, without copying a record.
//!
//! Run it against a broker: `cargo run -p strandline-client --example consume -- 127.0.0.1:9290
//! greetings`.

use anyhow::Result;
use strandline_client::{Client, ClientOptions, ConsumerOptions, StartAt};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let address = address.unwrap_or_else(|| "127.0.0.1:9290".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());

    let client = Client::connect(&[address], ClientOptions::default()).await?;
    let mut consumer = client.consumer(ConsumerOptions::default())?;
    consumer.assign_topic(&topic, StartAt::Beginning).await?;
    while let Some(records) = consumer.poll_to_end().await? {
        for record in records.iter() {
            let record = record?;
            let value = String::from_utf8_lossy(record.value.unwrap_or_default());
            println!("{}-{}: {value}", records.partition(), record.offset);
        }
    }
    Ok(())
}
