"""The load tester: measures servers of Yjs documents over the wire and checks what they delivered."""
