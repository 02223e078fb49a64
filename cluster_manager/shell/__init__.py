"""The loop on asyncio: what `loop` asks for is done here, and what happens is told to it.

`clock`; `observer` listens to the nodes, `executor` carries orders to them, `reconciler` asks the store and gives the turns.
Decides nothing.
"""
