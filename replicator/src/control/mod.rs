//! Control: the local socket through which the command line and the console speak to a node.
