//! What the whole-broker tests share: a broker as a process, and how to talk to it.
