"""The page of `web_interface.py`: its tabs, the handlers of their events, and the processes behind them."""
