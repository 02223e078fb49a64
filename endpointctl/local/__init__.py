"""What commands do about a cluster on this machine: its processes are the supervisor's, which is asked on its socket.

`foreground` and `watching` show a cluster coming up and going down, `leaving` ends it, `standing` asks which programs are down,
`checkup` and `machine` look at what could keep it from starting, `paste` tells how clients reach it, `terminal` lets go of one.
"""
