//! Follows a topic from now on, record by record; each lives on its own and can be sent elsewhere.
//!
//! Run it against a broker: `cargo run -p strandline-client --example stream -- 127.0.0.1:9290
//! greetings`.

use anyhow::Result;
use strandline_client::{Client, ClientOptions, ConsumerOptions, OutOfRange, StartAt};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let address = address.unwrap_or_else(|| "127.0.0.1:9290".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());

    let client = Client::connect(&[address], ClientOptions::default()).await?;
    let options = ConsumerOptions {
        // Fall behind retention, and go on with the oldest record that is left.
        out_of_range: OutOfRange::Beginning,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consumer(options)?;
    consumer.assign_topic(&topic, StartAt::End).await?;
    let mut records = consumer.into_stream();
    loop {
        let record = records.next().await?;
        let length = record.value.as_ref().map_or(0, bytes::Bytes::len);
        println!("{}-{}: {length} bytes", record.partition, record.offset);
    }
}
