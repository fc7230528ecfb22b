"""The frame of the app: page config, navigation, footer. Each page tells its own story."""

import streamlit as st

from explorer import frame

st.set_page_config("Sparse Diffusion Explorer", page_icon=frame.ICON, layout="wide")
page = st.navigation(frame.pages(), position="top")
st.logo(frame.LOGO, size="large", icon_image=frame.ICON)
with frame.body(), frame.boundary():
    page.run()
frame.footer()
frame.warm()
