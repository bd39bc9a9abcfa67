"""The service under steady use for a long time: what grows?"""
