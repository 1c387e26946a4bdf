"""The command `starflow`: one thin module per subcommand, loaded when it is invoked."""
