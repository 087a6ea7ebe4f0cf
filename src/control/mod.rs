//! One plain thread: configuration, signals, start and stop of the cores.
