//! The link: frames over TCP, from the first byte of the handshake to the last acknowledgement.
